"""Rows on their way into a shard: an append-only file that survives kill -9 and a full disk, with one writer.

HDF5 cannot promise that a file under construction opens after its writer died, and its close can take the interpreter
down when the disk is full. So rows first go to a journal, each with its length and checksum, written by plain system
calls; the HDF5 file is made from it in one go at the end, and is the same whether or not the writing was interrupted.
"""

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mvdiff.errors import InputError
from mvdiff.shard.schema import CAMERA_COLUMNS, Sample, picture_columns

_FRAME = struct.Struct("<QQ")


class Journal:
    """The rows appended so far to the journal at ``path``, those of earlier writers included.

    ``header`` says what the rows are for; a journal begun with another header is refused. At most one process holds a
    journal: an flock that the kernel drops with its holder, so a killed writer blocks nobody. (Linux carries flock
    over NFS; a file system without locks is refused.) Raises ``InputError`` for all of these.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self._columns = (*picture_columns(header["size"], header["with_alpha"]), *CAMERA_COLUMNS)
        self._row_bytes = sum(int(np.prod(column.shape)) * column.dtype.itemsize for column in self._columns)
        self.ids: list[str] = []
        self.checksums: list[int] = []
        self._spans: list[tuple[int, int]] = []
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
            self._write(header)
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
            sample = self._sample(payload)
            self._note(sample, self._end, len(payload))
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
        return payload if xxhash.xxh3_64_intdigest(payload) == checksum else None

    def _note(self, sample: Sample, at: int, length: int) -> None:
        self.ids.append(sample.sample_id)
        self.checksums.append(sample.checksum())
        self._spans.append((at, length))

    def append(self, sample: Sample) -> None:
        """Add a row; once this returns it survives the death of the process. ``OSError`` leaves the rows before."""
        names = json.dumps([sample.sample_id, sample.recording]).encode()
        arrays = [np.ascontiguousarray(getattr(sample, column.name)).tobytes() for column in self._columns]
        at = self._end
        length = self._write(b"".join([struct.pack("<I", len(names)), names, *arrays]))
        self._note(sample, at, length)

    def _write(self, payload: bytes) -> int:
        frame = memoryview(_FRAME.pack(len(payload), xxhash.xxh3_64_intdigest(payload)) + payload)
        written = 0
        try:
            while written < len(frame):
                written += os.pwrite(self._handle, frame[written:], self._end + written)
        except BaseException:
            os.ftruncate(self._handle, self._end)
            raise
        self._end += written
        return len(payload)

    def _sample(self, payload: bytes) -> Sample:
        (length,) = struct.unpack_from("<I", payload)
        sample_id, recording = json.loads(payload[4 : 4 + length])
        values: dict[str, Any] = {"alpha": None}
        at = 4 + length
        for column in self._columns:
            count = int(np.prod(column.shape))
            values[column.name] = np.frombuffer(payload, column.dtype, count, at).reshape(column.shape)
            at += count * column.dtype.itemsize
        return Sample(sample_id=sample_id, recording=recording, **values)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> Iterator[Sample]:
        """Every row, in the order it was appended."""
        for at, _ in self._spans:
            payload = self._frame(at, self._end)
            if payload is None:
                raise OSError(f"{self.path} changed while it was read")
            yield self._sample(payload)

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
