"""Check every byte of shards, and name what is damaged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

from mvdiff.errors import one_line
from mvdiff.progress import Progress
from mvdiff.shard.index import find_shards
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import CorruptRow
from mvdiff.shard.seal import DamagedShard, Seal, open_shard_file
from mvdiff.threads import concurrently

T = TypeVar("T")

_MB = 1_000_000
_AUTOPSY_SECONDS = 20.0
_AUTOPSY_BYTES_A_SECOND = 50e6


@dataclass(frozen=True)
class BadRow:
    """A row that fails, or, with ``row`` -1, damage to a shard that belongs to no single row."""

    path: Path
    row: int
    sample_id: str
    why: str

    def __str__(self) -> str:
        where = f"{self.path} row {self.row} ({self.sample_id}):" if self.row >= 0 else f"{self.path}"
        return one_line(f"{where} {self.why}")


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` found."""

    shards: int
    bytes: int
    bad: list[BadRow]


def verify(path: Path) -> VerifyReport:
    """Verify the shard ``path``, or every shard in that folder and those below it, showing progress.

    Raises ``InputError`` where there is nothing to verify.
    """
    return verify_shards(find_shards(path), f"verify {path}")


def verify_shards(shards: Sequence[Path], what: str) -> VerifyReport:
    """Verify the shards at these paths, showing progress under ``what``."""
    size = sum(shard.stat().st_size for shard in shards)
    bad = [found for each in each_shard(shards, what, verify_shard) for found in each]
    return VerifyReport(len(shards), size, bad)


def each_shard(shards: Sequence[Path], what: str, look: Callable[[Path, Callable[[int], None]], T]) -> list[T]:
    """``look(shard, advance)`` for each of ``shards``, several at a time, showing progress in MB under ``what``.

    ``advance`` is to be told the bytes read.
    """
    total = sum(shard.stat().st_size for shard in shards)
    done, lock = 0, Lock()
    with Progress(what, -(-total // _MB), "MB") as progress:

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                whole = (done + count) // _MB - done // _MB
                done += count
                if whole:
                    progress.advance(whole)

        found = list(concurrently(lambda shard: look(shard, advance), shards))
        progress.advance(progress.total - progress.done)
    return found


def verify_shard(path: Path, advance: Callable[[int], None] = lambda count: None) -> list[BadRow]:
    """Every bad row of the shard ``path``; none when each of its bytes is what was published.

    A whole shard is read once, at the speed of the disk, without decoding. Only a damaged one is opened: for its rows
    to be named where the body is damaged, and in a process of its own where the header is, since HDF5 may crash or hang
    on it. ``advance`` is told the bytes read. Raises ``InputError`` when there is no such file.
    """
    handle = open_shard_file(path)
    # Said before the first read, since the kernel would take the short ones of the header for a sign of more of them.
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    try:
        seal = Seal.read(handle, path)
        seal.check_head(handle, path)
        advance(seal.head)
        if seal.body_holds(handle, advance):
            return []
    except DamagedShard as error:
        return [BadRow(path, -1, "", error.why), *_autopsy(path)]
    finally:
        os.close(handle)
    try:
        with ShardReader(path) as reader:
            bad = bad_rows(reader)
    except DamagedShard as error:
        return [BadRow(path, -1, "", error.why)]
    return bad or [BadRow(path, -1, "", "is damaged in bytes that no row uses: its body fails its checksum")]


def bad_rows(reader: ShardReader) -> list[BadRow]:
    """The rows of an open shard that fail their checksum."""
    bad = []
    for row in range(len(reader)):
        try:
            reader.sample(row)
        except CorruptRow as error:
            bad.append(BadRow(reader.path, row, error.sample_id, error.why))
    return bad


def _autopsy(path: Path) -> list[BadRow]:
    """What can be told of a shard with a damaged header, found out by a process that may die of it."""
    limit = _AUTOPSY_SECONDS + path.stat().st_size / _AUTOPSY_BYTES_A_SECOND
    command = [sys.executable, "-m", "mvdiff.shard.autopsy", str(path)]
    try:
        result = subprocess.run(command, capture_output=True, timeout=limit, check=True, text=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return []
    return [BadRow(path, *found) for found in json.loads(result.stdout)]
