"""The shard schema: what a row is, how it is named, typed and checksummed, in memory and in HDF5."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.rig import VIEWS

SCHEMA = "mvdiff-shard"
VERSION = 1
MAX_SIZE = 2048
"""Pictures wider than this many pixels are refused: a damaged or hostile header must not claim all memory."""
NAME_BYTES = 128
"""Least width of the ``sample_id`` and ``recording`` columns: they are wider only in a shard with longer names."""
MAX_NAME_BYTES = 1024
"""Longest name, in bytes of UTF-8: some 340 Korean characters."""

Attributes = Mapping[str, str | int | float]


def name_problem(name: str) -> str | None:
    """Why ``name`` may be no sample id or recording; None when it may.

    Names are data. Slashes, newlines and dots are as good as letters: nobody makes a path of a name, except through
    ``mvdiff.filename``, or a line, except through ``one_line``.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "it must be valid UTF-8"
    if not encoded:
        return "it must not be empty"
    if b"\0" in encoded:
        return "it must not contain NUL"
    if len(encoded) > MAX_NAME_BYTES:
        return f"it must have at most {MAX_NAME_BYTES} bytes of UTF-8, and has {len(encoded)}"
    return None


@dataclass(frozen=True)
class Column:
    """One HDF5 dataset of a shard: its name, type, and shape after the row axis."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


def picture_columns(size: int, with_alpha: bool) -> tuple[Column, ...]:
    """The columns that hold pixels: one chunk a row, through the codec."""
    views = Column("views", np.dtype(np.uint8), (VIEWS, size, size, 3))
    alpha = Column("alpha", np.dtype(np.uint8), (VIEWS, size, size))
    return (views, alpha) if with_alpha else (views,)


PICTURES = ("views", "alpha")
"""Names of the picture columns, in order; alpha may be absent."""


CAMERA_COLUMNS = (
    Column("w2c", np.dtype("<f4"), (VIEWS, 4, 4)),
    Column("intrinsics", np.dtype("<f4"), (VIEWS, 3, 3)),
    Column("azimuth", np.dtype("<f4"), (VIEWS,)),
    Column("elevation", np.dtype("<f4"), (VIEWS,)),
)
NAME_COLUMNS = (
    Column("sample_id", np.dtype(f"S{NAME_BYTES}"), ()),
    Column("recording", np.dtype(f"S{NAME_BYTES}"), ()),
)
SINGLE_ATTRIBUTE = "single"
"""Root attribute of shards of single pictures: of each sample only view 0 is known, and the others are white."""
CHECKSUM_COLUMN = Column("checksum", np.dtype("<u8"), ())


@dataclass(frozen=True)
class Sample:
    """One subject seen by the six cameras of a rig.

    Raises ``InputError`` when a name, type, shape or number is not what the fields below say.
    """

    sample_id: str
    """1 to 1024 bytes of UTF-8 without NUL, any text otherwise; unique in a data set."""
    recording: str
    """The session or animal it comes from, named by the same rule: a split never divides a recording."""
    views: NDArray[np.uint8]
    """uint8 [6, H, W, 3], RGB on white, H = W."""
    alpha: NDArray[np.uint8] | None
    """uint8 [6, H, W], 255 on the subject; None where unknown."""
    w2c: NDArray[np.float32]
    """float32 [6, 4, 4], OpenCV axes, world Z-up."""
    intrinsics: NDArray[np.float32]
    """float32 [6, 3, 3], in pixels."""
    azimuth: NDArray[np.float32]
    """float32 [6], degrees."""
    elevation: NDArray[np.float32]
    """float32 [6], degrees."""

    def __post_init__(self) -> None:
        for what in ("sample_id", "recording"):
            name = getattr(self, what)
            problem = name_problem(name)
            if problem:
                raise InputError(f"{what} {name[:200]!r} is not usable", f"{problem}: name it otherwise")
        size = self.views.shape[1] if self.views.ndim == 4 else 0
        if not 1 <= size <= MAX_SIZE:
            raise self._wrong("views", f"are {list(self.views.shape)}", f"give [6, H, H, 3] with H up to {MAX_SIZE}")
        for column in (*picture_columns(size, self.alpha is not None), *CAMERA_COLUMNS):
            value = getattr(self, column.name)
            if value.dtype != column.dtype or value.shape != column.shape:
                raise self._wrong(
                    column.name,
                    f"is {value.dtype} {list(value.shape)}",
                    f"give {column.dtype.name} {list(column.shape)}",
                )
            if column in CAMERA_COLUMNS and not np.isfinite(value).all():
                raise self._wrong(column.name, "holds numbers that are not finite", "mend its cameras")

    def _wrong(self, column: str, what: str, mend: str) -> InputError:
        return InputError(f"sample {self.sample_id}: {column} {what}", mend)

    @property
    def size(self) -> int:
        """Height and width of the pictures in pixels."""
        return self.views.shape[1]

    def checksum(self) -> int:
        """xxh3_64 over every column of the row; it does not depend on how or where the row is stored."""
        return row_checksum(
            self.sample_id,
            self.recording,
            (self.views, self.alpha, self.w2c, self.intrinsics, self.azimuth, self.elevation),
        )


def row_checksum(sample_id: str, recording: str, arrays: Iterable[NDArray | None]) -> int:
    """xxh3_64 of a row.

    ``arrays``, taken one at a time: views, alpha (None where unknown), w2c, intrinsics, azimuth, elevation.
    """
    hasher = xxhash.xxh3_64()
    for name in (sample_id, recording):
        encoded = name.encode()
        # Behind a long name a NUL, so that no two pairs of names are the same bytes.
        hasher.update(encoded.ljust(NAME_BYTES, b"\0") if len(encoded) <= NAME_BYTES else encoded + b"\0")
    for array in arrays:
        hasher.update(b"-" if array is None else b"+")
        if array is not None:
            hasher.update(np.ascontiguousarray(array).data)
    return hasher.intdigest()


class CorruptRow(InputError):
    """A row of a shard that fails its checksum or cannot be read."""

    def __init__(self, path: str, row: int, sample_id: str, why: str) -> None:
        super().__init__(f"{path} row {row} ({sample_id}): {why}", "pack that shard again, or leave the row out")
        self.path, self.row, self.sample_id, self.why = path, row, sample_id, why

    def __reduce__(self) -> tuple[type["CorruptRow"], tuple[str, int, str, str]]:
        return CorruptRow, (self.path, self.row, self.sample_id, self.why)
