"""Checkpoints: folders that appear whole or not at all, and are checked before they are believed.

Flipped bits and half-written folders load without an error in every common format, so each checkpoint carries a
manifest of sizes and xxh3 hashes, written last. This module knows bytes and names only: no tensors.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash
from safetensors import SafetensorError

from mvdiff.durable import sync_file, sync_folder, write_json
from mvdiff.errors import InputError

MANIFEST = "manifest.json"
TRAINING = "training"
"""Folder in a checkpoint of what only resuming needs; everything else is what generation loads."""

_NAME = re.compile(r"step-(\d{8,})")


class SaveFailed(Exception):
    """A checkpoint could not be written; those before it are untouched."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay when a newer one is there and verified."""

    last: int
    """So many of the newest."""
    every: int = 0
    """Those of steps that this number divides; 0: none."""
    best: int = 0
    """So many of the first in ``ranking`` that there are."""
    ranking: Sequence[int] = ()
    """Steps, best first."""

    def of(self, steps: Sequence[int]) -> set[int]:
        """Those of ``steps`` (rising) that stay."""
        best = [step for step in self.ranking if step in steps][: self.best]
        periodic = [step for step in steps if self.every and step and step % self.every == 0]
        return {*steps[-self.last :], *best, *periodic}


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint folder's name tells."""
    name = _NAME.fullmatch(checkpoint.name)
    if name is None:
        raise InputError(f"{checkpoint} is no checkpoint", "give a folder named like step-00000300")
    return int(name[1])


def verify(checkpoint: Path) -> list[str]:
    """Problems of the checkpoint folder ``checkpoint``, one line each; none if every byte is as it was written."""
    try:
        manifest = read_manifest(checkpoint)
    except InputError as error:
        return [error.what]
    problems = []
    for name, expected in manifest.items():
        path = checkpoint / name
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                problems.append(f"{name} has {size} bytes instead of {expected['size']}")
            elif _xxh3(path) != expected["xxh3"]:
                problems.append(f"{name} fails its checksum")
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
    return problems


def find_checkpoints(path: Path) -> list[Path]:
    """The checkpoint ``path``, or every published one in that folder and those below it, sorted."""
    if (path / MANIFEST).is_file():
        return [path]
    found = (manifest.parent for manifest in path.rglob(MANIFEST))
    return sorted(one for one in found if _NAME.fullmatch(one.name))


def read_manifest(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """{file: {size, xxh3}} of a checkpoint; an ``InputError`` if there is none or it is damaged."""
    mend = "use another checkpoint"
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{checkpoint} has no {MANIFEST}", mend) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint / MANIFEST} cannot be read ({error})", mend) from None
    sound = isinstance(manifest, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and isinstance(entry.get("xxh3"), str)
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name, entry in manifest.items()
    )
    if not sound or not manifest:
        raise InputError(f"{checkpoint / MANIFEST} is damaged", mend)
    return manifest


def checkpoint_hash(checkpoint: Path) -> str:
    """Names the weights and settings that generation loads from ``checkpoint``: 32 hexadecimal digits.

    Two checkpoints have the same hash when those files are the same, whatever lies beside them for resuming.
    """
    manifest = read_manifest(checkpoint)
    published = {name: entry for name, entry in manifest.items() if PurePosixPath(name).parts[0] != TRAINING}
    return xxhash.xxh3_128_hexdigest(json.dumps(published, sort_keys=True).encode())


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _no_boundary(_name: str) -> None:
    pass


class CheckpointStore:
    """The checkpoints of one run, ``folder/step-00000300`` and so on.

    ``say`` is told in one line when a damaged checkpoint is passed over. ``on_boundary`` is called with a name between
    any two steps of a save that a kill could separate.
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None] = _print,
        on_boundary: Callable[[str], None] = _no_boundary,
    ) -> None:
        self.folder = Path(folder)
        self._say = say
        self.boundary = on_boundary

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is, or would be."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, good or not, rising."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(name[1]) for name in names if name)

    def newest_good(self) -> Path | None:
        """The newest checkpoint whose every byte is as written; None if there are no checkpoints.

        Raises ``InputError`` when there are some and all are damaged. Never deletes anything.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            problems = verify(path)
            if not problems:
                if damaged:
                    self._say(f"{'; '.join(damaged)}: falling back to {path.name}")
                return path
            damaged.append(f"{path.name} is damaged ({problems[0]})")
        if damaged:
            raise InputError(
                f"no checkpoint in {self.folder} is whole: {'; '.join(damaged)}",
                "bring one back from a backup, or start in a fresh folder (nothing was deleted)",
            )
        return None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other writer out of this folder for the length of the block; ``InputError`` if one is in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another process is training into {self.folder}", "wait for it to end, or cancel it"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                self._say(f"{self.folder}: this file system has no locks; take care that only one run writes here")
            yield
        finally:
            os.close(handle)

    def save(self, step: int, write: Callable[[Path], None], keep: Keep) -> Path:
        """Publish what ``write(folder)`` puts into an empty folder as the checkpoint of ``step``.

        Older checkpoints that ``keep`` does not name go once the new one is verified. Checkpoints of ``step`` or
        later are left-overs that were passed over as damaged: they are put aside as ``damaged-*``. Raises
        ``SaveFailed`` when the disk is full or the like, having removed only what it wrote itself.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".step-{step:08d}.part"
        target = self.path(step)
        self._sweep()
        try:
            temporary.mkdir()
            self.boundary("begun")
            write(temporary)
            self.boundary("written")
            self._seal(temporary)
            for damaged in self.steps():
                if damaged >= step:
                    self._put_aside(self.path(damaged))
            temporary.rename(target)
            self.boundary("renamed")
            sync_folder(self.folder)
            self.boundary("published")
            _drop_from_memory(target)
            problems = verify(target)
        except (OSError, SafetensorError) as error:
            # a full disk must get its room back
            shutil.rmtree(temporary, ignore_errors=True)
            raise SaveFailed(f"the checkpoint of step {step} could not be saved in {self.folder} ({error})") from error
        if problems:
            self._put_aside(target)
            raise SaveFailed(f"{target} was not stored as written ({problems[0]})")
        self.boundary("verified")
        self.tidy(step, keep)
        return target

    def tidy(self, newest: int, keep: Keep) -> None:
        """Delete those checkpoints before that of step ``newest``, which must be a good one, that ``keep`` leaves out.

        Also clears away what a killed save or deletion left behind.
        """
        self._sweep()
        steps = [step for step in self.steps() if step <= newest]
        for old in sorted(set(steps) - keep.of(steps)):
            self._delete(self.path(old))

    def _seal(self, folder: Path) -> None:
        """Sync every file and folder of ``folder``, then write its manifest."""
        manifest = {}
        # safetensors leaves files to their owner alone, whatever the umask, which the folder's own rights follow
        readable = folder.stat().st_mode & 0o666
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                sync_folder(path)
            else:
                path.chmod(readable)
                sync_file(path)
                name = path.relative_to(folder).as_posix()
                manifest[name] = {"size": path.stat().st_size, "xxh3": _xxh3(path)}
        self.boundary("synced")
        write_json(folder / MANIFEST, manifest)
        self.boundary("sealed")

    def _put_aside(self, damaged: Path) -> None:
        damaged.rename(self.folder / f"damaged-{damaged.name}-{secrets.token_hex(4)}")
        self.boundary("put aside")

    def _delete(self, checkpoint: Path) -> None:
        """Rename first: a deletion that is cut short must not look like a damaged checkpoint."""
        doomed = self.folder / f".{checkpoint.name}.part"
        checkpoint.rename(doomed)
        self.boundary("doomed")
        shutil.rmtree(doomed, ignore_errors=True)
        self.boundary("deleted")

    def _sweep(self) -> None:
        """Remove what a killed save or deletion left behind."""
        for left in self.folder.glob(".step-*.part"):
            shutil.rmtree(left, ignore_errors=True)


def _xxh3(path: Path) -> str:
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def _drop_from_memory(folder: Path) -> None:
    """Have the synced files of ``folder`` read next from where they are stored, where the system can do that."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
