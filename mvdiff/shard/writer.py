"""Write one shard: rows go to a journal one at a time, and the HDF5 file appears whole at the end."""

import fcntl
import json
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
import xxhash

from mvdiff.durable import sync_file, sync_folder
from mvdiff.errors import InputError
from mvdiff.shard.codec import filters
from mvdiff.shard.schema import (
    CAMERA_COLUMNS,
    CHECKSUM_COLUMN,
    NAME_COLUMNS,
    SCHEMA,
    VERSION,
    Attributes,
    Sample,
    picture_columns,
)


class ShardWriter:
    """The only writer of the shard ``path``; simple first version."""

    def __init__(
        self, path: Path, *, size: int, rig: str, codec: str, with_alpha: bool, attributes: Attributes | None = None
    ) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        filters(codec)
        if self.path.exists():
            raise InputError(f"{path} is already published", "remove it or write elsewhere")
        self.size, self.codec, self.with_alpha = size, codec, with_alpha
        self._root = {
            "schema": SCHEMA, "version": VERSION, "size": size, "rig": rig, "codec": codec, **(attributes or {}),
        }  # fmt: skip
        self._journal = self.path.with_name(f".{self.path.name}.part")
        self._handle = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise InputError(f"{path} is being written by another process", "wait for it or stop it") from None
        self._ids: list[str] = []
        self._offsets: list[tuple[int, int]] = []
        self._read_back()

    @property
    def rows(self) -> int:
        """Good rows so far, those of a writer that was killed included."""
        return len(self._ids)

    def ids(self) -> list[str]:
        """Sample ids of the rows so far."""
        return list(self._ids)

    def _read_back(self) -> None:
        size = os.fstat(self._handle).st_size
        at = 0
        while at + 16 <= size:
            length, checksum = struct.unpack("<QQ", os.pread(self._handle, 16, at))
            payload = os.pread(self._handle, length, at + 16) if at + 16 + length <= size else b""
            if len(payload) != length or xxhash.xxh3_64_intdigest(payload) != checksum:
                break
            self._ids.append(self._decode(payload).sample_id)
            self._offsets.append((at + 16, length))
            at += 16 + length
        os.ftruncate(self._handle, at)
        os.lseek(self._handle, at, os.SEEK_SET)

    def _decode(self, payload: bytes) -> Sample:
        length = struct.unpack("<I", payload[:4])[0]
        names = json.loads(payload[4 : 4 + length])
        at = 4 + length
        values = []
        for column in (*picture_columns(self.size, self.with_alpha), *CAMERA_COLUMNS):
            count = int(np.prod(column.shape)) * column.dtype.itemsize
            values.append(np.frombuffer(payload, column.dtype, int(np.prod(column.shape)), at).reshape(column.shape))
            at += count
        if not self.with_alpha:
            values.insert(1, None)  # type: ignore[arg-type]
        return Sample(*names, *values)

    def append(self, sample: Sample) -> None:
        """Add a row; it survives the death of this process once the call returns."""
        if sample.size != self.size or (sample.alpha is not None) != self.with_alpha:
            raise InputError(f"sample {sample.sample_id} does not fit the shard {self.path}", "check size and alpha")
        if sample.sample_id in self._ids:
            raise InputError(f"sample {sample.sample_id} is already in {self.path}", "give every sample its own id")
        names = json.dumps([sample.sample_id, sample.recording]).encode()
        parts = [struct.pack("<I", len(names)), names]
        for column in (*picture_columns(self.size, self.with_alpha), *CAMERA_COLUMNS):
            parts.append(np.ascontiguousarray(getattr(sample, column.name)).tobytes())
        payload = b"".join(parts)
        at = os.lseek(self._handle, 0, os.SEEK_CUR)
        os.write(self._handle, struct.pack("<QQ", len(payload), xxhash.xxh3_64_intdigest(payload)) + payload)
        self._ids.append(sample.sample_id)
        self._offsets.append((at + 16, len(payload)))

    def publish(self) -> Path:
        """Turn the journal into the shard, verify it and give it its name."""
        temporary = self.path.with_name(f".{self.path.name}.new")
        n = self.rows
        with h5py.File(temporary, "w") as file:
            file.attrs.update(self._root)
            for column in picture_columns(self.size, self.with_alpha):
                file.create_dataset(
                    column.name, (n, *column.shape), column.dtype, chunks=(1, *column.shape), **filters(self.codec)
                )
            for column in (*CAMERA_COLUMNS, *NAME_COLUMNS, CHECKSUM_COLUMN):
                file.create_dataset(column.name, (n, *column.shape), column.dtype)
            for row, (offset, length) in enumerate(self._offsets):
                sample = self._decode(os.pread(self._handle, length, offset))
                for column in (*picture_columns(self.size, self.with_alpha), *CAMERA_COLUMNS):
                    file[column.name][row] = getattr(sample, column.name)
                file["sample_id"][row] = sample.sample_id.encode()
                file["recording"][row] = sample.recording.encode()
                file["checksum"][row] = sample.checksum()
        sync_file(temporary)
        temporary.replace(self.path)
        sync_folder(self.path.parent)
        self._journal.unlink()
        self.close()
        return self.path

    def close(self) -> None:
        """Let go of the lock; rows that were not published wait for the next writer of this path."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
