"""Rows on their way into a shard: an append-only file that survives kill -9 and a full disk, with one writer.

HDF5 cannot promise that a file under construction opens after its writer died, and its close can take the interpreter
down when the disk is full. So encoded rows first go to a journal, each with its length and checksum, written by plain
system calls; the HDF5 file is made from it in one go at the end, and is the same whether or not the writing was
interrupted.
"""

import fcntl
import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvdiff.errors import InputError
from mvdiff.shard.row import Row, digest
from mvdiff.shard.schema import NAME_BYTES

_FRAME = struct.Struct("<QQ")


class Journal:
    """The rows appended so far to the journal at ``path``, those of earlier writers included.

    ``header`` says what the rows are for; a journal begun with another header is refused. At most one process holds a
    journal: an flock that the kernel drops with its holder, so a killed writer blocks nobody. (Linux carries flock
    over NFS; a file system without locks is refused.) Raises ``InputError`` for all of these.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.ids: list[str] = []
        self.checksums: list[int] = []
        self.digests: list[int] = []
        """``digest`` of each row as it is packed."""
        self.name_bytes = NAME_BYTES
        """Width of the name columns that these rows need."""
        self._starts: list[int] = []
        self._handle = _locked(path)
        try:
            self._resume(json.dumps(header, sort_keys=True).encode())
        except BaseException:
            self.close()
            raise

    def _resume(self, header: bytes) -> None:
        size = os.fstat(self._handle).st_size
        found = self._frame(0, size)
        if found is None:
            # Frames behind a damaged header must not be taken for rows of what is written now.
            os.ftruncate(self._handle, 0)
            self._end = 0
            self._write([header])
            return
        if found != header:
            old, new = json.loads(found), json.loads(header)
            difference = next(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))
            raise InputError(
                f"{self.path} was left by a writer with {difference} {old.get(difference)!r}, "
                f"not {new.get(difference)!r}",
                "use that setting to go on, or delete this file to start again",
            )
        self._end = _FRAME.size + len(header)
        while (payload := self._frame(self._end, size)) is not None:
            self._note(Row.unpack(payload), self._end, digest([payload]))
            self._end += _FRAME.size + len(payload)
        if self._end < size:
            os.ftruncate(self._handle, self._end)

    def _frame(self, at: int, size: int) -> bytes | None:
        """The payload of the frame at ``at``; None where no whole and intact one lies."""
        if at + _FRAME.size > size:
            return None
        length, checksum = _FRAME.unpack(os.pread(self._handle, _FRAME.size, at))
        if at + _FRAME.size + length > size:
            return None
        payload = _read(self._handle, at + _FRAME.size, length)
        return payload if digest([payload]) == checksum else None

    def _note(self, row: Row, at: int, checksum: int) -> None:
        self.digests.append(checksum)
        self.ids.append(row.sample_id)
        self.checksums.append(row.checksum)
        self._starts.append(at)
        longest = max(len(name.encode()) for name in (row.sample_id, row.recording))
        self.name_bytes = max(self.name_bytes, longest)

    def append(self, row: Row) -> None:
        """Add a row; once this returns it survives the death of the process. ``OSError`` leaves the rows before."""
        at = self._end
        self._note(row, at, self._write(row.pack()))

    def _write(self, parts: list[bytes]) -> int:
        """Append a frame; returns the digest of its payload."""
        checksum = digest(parts)
        frame = memoryview(b"".join([_FRAME.pack(sum(map(len, parts)), checksum), *parts]))
        written = 0
        try:
            while written < len(frame):
                written += os.pwrite(self._handle, frame[written:], self._end + written)
        except BaseException:
            os.ftruncate(self._handle, self._end)
            raise
        self._end += written
        return checksum

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, order: Sequence[int] | None = None) -> Iterator[Row]:
        """The rows numbered ``order``, or every row, in the order it was appended."""
        for number in range(len(self)) if order is None else order:
            payload = self._frame(self._starts[number], self._end)
            if payload is None:
                raise OSError(f"{self.path} changed while it was read")
            yield Row.unpack(payload)

    def discard(self) -> None:
        """Delete the journal and let go of it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the lock; the rows wait for the next writer."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _locked(path: Path) -> int:
    """A descriptor of the file at ``path`` under an exclusive lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The writer before may have published and unlinked this file between our open and our lock.
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            raise InputError(f"{path} is being written by another process", "wait for it, or cancel it") from None
        except OSError as error:
            os.close(handle)
            raise InputError(
                f"{path} cannot be locked ({error.strerror})", "write to a file system that has file locks"
            ) from None
        os.close(handle)


def _read(handle: int, at: int, length: int) -> bytes:
    parts = []
    while length and (part := os.pread(handle, length, at)):
        parts.append(part)
        at += len(part)
        length -= len(part)
    return b"".join(parts)
