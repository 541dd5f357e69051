"""A JSON file of a model folder, which may hold anything: its values are asked for by name and checked as they are."""

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mvdiff.errors import InputError

LFS_POINTER = b"version https://git-lfs"
"""How the small text file begins that git puts in the place of a large file it has not fetched."""

_MAX_BYTES = 64 << 20
_MAX_NUMBER = 1 << 20
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist, _SHORT.maxlong = 4, 20


def shown(value: Any) -> str:
    """``value`` in a few characters of one line, for a message: it may come from a file and be anything."""
    return _SHORT.repr(value)


def lfs_pointer(path: Path) -> InputError:
    """What to say of a git-lfs pointer at ``path``."""
    return InputError(f"{path} is a git-lfs pointer, not the file itself", "run git lfs pull in that repository")


@dataclass(frozen=True)
class JsonFile:
    """The object that a JSON file holds."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The object in the file ``path``; ``InputError`` where there is none, or something else."""
        mend = "give an undamaged copy of the model"
        try:
            if not path.is_file():
                raise InputError(f"{path} is missing", "complete the download, or give a complete copy of the model")
            if path.stat().st_size > _MAX_BYTES:
                raise InputError(f"{path} is larger than any JSON file of a model", mend)
            data = path.read_bytes()
            if data.startswith(LFS_POINTER):
                raise lfs_pointer(path)
            values = json.loads(data.decode())
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})", "make it readable") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON ({error})", mend) from None
        if not isinstance(values, dict):
            raise InputError(f"{path} holds no JSON object", mend)
        return cls(path, values)

    def wrong(self, name: str, wanted: str) -> InputError:
        """What to say of a value that is not what is ``wanted``."""
        said = f"says {name}={shown(self.values[name])}" if name in self.values else f"does not say {name}"
        return InputError(f"{self.path} {said}", f"{wanted} is wanted")

    def require(self, name: str, *wanted: Any, missing: Any = None) -> None:
        """Raise an ``InputError`` unless the value is one of ``wanted``; ``missing`` stands for one not there."""
        if not any(_same(self.values.get(name, missing), one) for one in wanted):
            raise self.wrong(name, " or ".join(shown(one) for one in wanted))

    def integer(self, name: str, missing: int | None = None, most: int = _MAX_NUMBER) -> int:
        """A whole number from 1 to ``most``."""
        value = self.values.get(name, missing)
        if not _is_count(value, most):
            raise self.wrong(name, f"a whole number from 1 to {most}")
        return value

    def integers(self, name: str, length: int, missing: int | None = None, most: int = _MAX_NUMBER) -> list[int]:
        """``length`` such numbers, for which the file may say a single one."""
        value = self.values.get(name, missing)
        values = value if isinstance(value, list) else [value] * length
        if len(values) != length or not all(_is_count(one, most) for one in values):
            raise self.wrong(name, f"{length} whole numbers from 1 to {most}")
        return values

    def floats(self, name: str, length: int) -> tuple[float, ...]:
        """``length`` finite numbers."""
        values = self.values.get(name)
        if not isinstance(values, list) or not all(_is_finite(one) for one in values):
            raise self.wrong(name, f"a list of {length} numbers")
        if len(values) != length:
            raise InputError(f"{self.path} says {len(values)} {name}", f"{length} are wanted")
        return tuple(float(one) for one in values)


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_finite(value: Any) -> bool:
    # A float holds no integer of a thousand digits, and isfinite raises there.
    return type(value) in (int, float) and abs(value) < 1e30


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        return _is_finite(value) and math.isclose(value, wanted, rel_tol=1e-5)
    return type(value) is type(wanted) and value == wanted
