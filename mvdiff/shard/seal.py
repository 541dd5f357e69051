"""The seal of a shard: a checksum of its header that is checked before HDF5 sees the file.

HDF5 trusts its own metadata: with one flipped bit there it may read the wrong chunk, ask for absurd amounts of memory
or loop for ever (seen: one flip in some 3,500 hangs HDF5 2.0). A published shard never changes, so the seal can cover
everything. It is one ASCII line in the 512-byte user block that HDF5 leaves to applications:

    mvdiff-shard 1 size=<bytes of the file> head=<end of the header> headsum=<xxh3_64> bodysum=<xxh3_64> sum=<xxh3_64>

The header, bytes 512 to ``head``, holds all metadata; the body behind it holds the chunks. Readers check the header;
``verify`` checks the body too, at the speed of the disk.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import xxhash

from mvdiff.errors import InputError
from mvdiff.shard.schema import SCHEMA, VERSION

USER_BLOCK = 512
MAX_HEAD = 1 << 30
_BLOCK = 1 << 20
"""Bytes read at once: hashed while they are still in the processor's cache."""
_LINE = re.compile(
    rf"{SCHEMA} (\d+) size=(\d+) head=(\d+) headsum=([0-9a-f]{{16}}) bodysum=([0-9a-f]{{16}}) sum=[0-9a-f]{{16}}\n"
)


class DamagedShard(InputError):
    """A file that is no shard, or no longer the one that was published."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}", "restore it from a copy, or delete it and write it again")
        self.path, self.why = path, why

    def __reduce__(self) -> tuple[type["DamagedShard"], tuple[Path, str]]:
        return DamagedShard, (self.path, self.why)


@dataclass(frozen=True)
class Seal:
    """What the user block says about the rest of the file."""

    size: int
    head: int
    head_sum: int
    body_sum: int

    def block(self) -> bytes:
        """The user block, 512 bytes."""
        line = (
            f"{SCHEMA} {VERSION} size={self.size} head={self.head} "
            f"headsum={self.head_sum:016x} bodysum={self.body_sum:016x}"
        ).encode()
        return (line + b" sum=%016x\n" % xxhash.xxh3_64_intdigest(line)).ljust(USER_BLOCK, b"\0")

    @classmethod
    def compute(cls, handle: int, head: int) -> Self:
        """The seal of the open file ``handle`` whose metadata ends before ``head``."""
        size = os.fstat(handle).st_size
        return cls(size, head, _digest(handle, USER_BLOCK, head), _digest(handle, head, size))

    @classmethod
    def read(cls, handle: int, path: Path) -> Self:
        """The seal of the open file ``handle``; ``DamagedShard`` unless it is whole and the file has its length."""
        block = os.pread(handle, USER_BLOCK, 0)
        match = _LINE.match(block.decode("latin-1"))
        if not match:
            raise DamagedShard(path, "is no shard: it does not begin with a shard's seal")
        if int(match[1]) != VERSION:
            raise DamagedShard(path, f"has version {match[1]} of the shard schema, and this program reads {VERSION}")
        seal = cls(int(match[2]), int(match[3]), int(match[4], 16), int(match[5], 16))
        if seal.block() != block or not USER_BLOCK < seal.head <= min(seal.size, MAX_HEAD):
            raise DamagedShard(path, "is damaged: its seal contradicts itself")
        size = os.fstat(handle).st_size
        if size != seal.size:
            kind = "cut off" if size < seal.size else "too long"
            raise DamagedShard(path, f"is {kind}: {size} bytes instead of {seal.size}")
        return seal

    def check_head(self, handle: int, path: Path) -> None:
        """``DamagedShard`` unless the header is what it was."""
        if _digest(handle, USER_BLOCK, self.head) != self.head_sum:
            raise DamagedShard(path, "is damaged, or was changed since it was published: its header fails its checksum")

    def body_holds(self, handle: int, advance: Callable[[int], None]) -> bool:
        """Whether every byte behind the header is what it was; ``advance`` is told the bytes read."""
        return _digest(handle, self.head, self.size, advance) == self.body_sum


def apply_seal(path: Path, head: int) -> None:
    """Seal the file at ``path``, whose metadata ends before byte ``head``, and sync it."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(handle, Seal.compute(handle, head).block(), 0)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def check_seal(path: Path) -> None:
    """``DamagedShard`` unless the file at ``path`` is a shard with its length and its header intact."""
    handle = open_shard_file(path)
    try:
        Seal.read(handle, path).check_head(handle, path)
    finally:
        os.close(handle)


def open_shard_file(path: Path) -> int:
    """A read-only descriptor of a regular file; ``InputError`` when there is none at ``path``."""
    if not path.exists():
        raise InputError(f"{path} does not exist", "give a shard, or a folder that holds some")
    if not path.is_file():
        raise InputError(f"{path} is no file", "give a shard")
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror})", "make it readable") from None


def _digest(handle: int, start: int, end: int, advance: Callable[[int], None] | None = None) -> int:
    hasher = xxhash.xxh3_64()
    buffer = memoryview(bytearray(min(_BLOCK, max(end - start, 1))))
    while start < end:
        read = os.preadv(handle, [buffer[: min(len(buffer), end - start)]], start)
        if not read:
            break
        hasher.update(buffer[:read])
        start += read
        if advance:
            advance(read)
    return hasher.intdigest()
