"""A row as it lies in a shard: its pictures encoded into chunks, what is small beside them as it is.

A row is encoded once, when it is added. From there on its chunks are copied as bytes, into the journal and out of it
into the shard, so that publishing a shard costs little more than writing it.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from mvdiff.shard.codec import filters
from mvdiff.shard.schema import CAMERA_COLUMNS, Sample, picture_columns

_LENGTH = struct.Struct("<I")
_NUMBERS = count()


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


class Encoder:
    """Encodes samples for shards of one kind, in a scratch file of HDF5's that exists in memory alone."""

    def __init__(self, size: int, with_alpha: bool, codec: str) -> None:
        self._file = h5py.File(f"encoder-{next(_NUMBERS)}", "w", driver="core", backing_store=False)
        self._datasets: Sequence[tuple[str, h5py.Dataset]] = [
            (
                column.name,
                self._file.create_dataset(
                    column.name, (1, *column.shape), column.dtype, chunks=(1, *column.shape), **filters(codec)
                ),
            )
            for column in picture_columns(size, with_alpha)
        ]

    def encode(self, sample: Sample) -> Row:
        """The row of ``sample``, whose pictures fit this encoder."""
        chunks = []
        for name, dataset in self._datasets:
            dataset[0] = getattr(sample, name)
            _, chunk = dataset.id.read_direct_chunk((0,) * dataset.ndim)
            chunks.append(bytes(chunk))
        cameras = {column.name: np.ascontiguousarray(getattr(sample, column.name)) for column in CAMERA_COLUMNS}
        return Row(sample.sample_id, sample.recording, sample.checksum(), cameras, tuple(chunks))

    def close(self) -> None:
        """Free the scratch file."""
        self._file.close()
