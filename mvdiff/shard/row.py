"""A row as it lies in a shard: its pictures encoded into chunks, what is small beside them as it is.

A row is encoded once, when it is added. From there on its chunks are copied as bytes, into the journal and out of it
into the shard, so that publishing a shard costs little more than writing it.
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from mvdiff.shard.codec import encode
from mvdiff.shard.schema import CAMERA_COLUMNS, Sample, picture_columns

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Row:
    """One encoded sample."""

    sample_id: str
    recording: str
    checksum: int
    """``Sample.checksum``."""
    cameras: dict[str, NDArray[np.float32]]
    """The values of ``CAMERA_COLUMNS``, by name."""
    chunks: tuple[bytes, ...]
    """One a picture column, as HDF5 stores it behind the codec's filters."""

    @classmethod
    def of(cls, sample: Sample, codec: str) -> Self:
        """``sample`` encoded by the codec called ``codec``."""
        pictures = picture_columns(sample.size, sample.alpha is not None)
        cameras = {column.name: np.ascontiguousarray(getattr(sample, column.name)) for column in CAMERA_COLUMNS}
        chunks = tuple(encode(getattr(sample, column.name), codec) for column in pictures)
        return cls(sample.sample_id, sample.recording, sample.checksum(), cameras, chunks)

    def pack(self) -> list[bytes]:
        """The row as parts that follow one another in a journal."""
        told = [self.sample_id, self.recording, self.checksum, [len(chunk) for chunk in self.chunks]]
        head = json.dumps(told).encode()
        cameras = [self.cameras[column.name].tobytes() for column in CAMERA_COLUMNS]
        return [_LENGTH.pack(len(head)), head, *cameras, *self.chunks]

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The row that ``pack`` made these bytes of."""
        (length,) = _LENGTH.unpack_from(packed)
        at = _LENGTH.size + length
        sample_id, recording, checksum, lengths = json.loads(packed[_LENGTH.size : at])
        cameras: dict[str, NDArray[np.float32]] = {}
        for column in CAMERA_COLUMNS:
            values = int(np.prod(column.shape))
            cameras[column.name] = np.frombuffer(packed, column.dtype, values, at).reshape(column.shape)
            at += values * column.dtype.itemsize
        chunks = []
        for size in lengths:
            chunks.append(packed[at : at + size])
            at += size
        return cls(sample_id, recording, checksum, cameras, tuple(chunks))


def digest(packed: Iterable[bytes]) -> int:
    """xxh3_64 of a packed row: the same for the same bytes, wherever they lie."""
    hasher = xxhash.xxh3_64()
    for part in packed:
        hasher.update(part)
    return hasher.intdigest()
