"""Codecs of the picture columns, by name, and how a row is read through each.

The configs ask for lz4, because training reads pictures on exact white, and seldom from memory. Rows of 6 views and
alpha at 320x320 (2.4 MB), read in random order by ``ShardReader``, checksum included; "noisy" has noise of sigma 1
everywhere, as decoded output has. November 2026, h5py 3.16, HDF5 2.0, hdf5plugin 7.1, 2 busy cores, best of 5 rounds:

    clean / noisy     KiB a row    rows a CPU second   by 2 processes   rows a second, not in memory
    raw               2401 / 2401      1216 /  969       1680 / 1596        162 / 175
    lz4                100 /  935      1086 /  354       1986 /  617        596 / 217
    bitshuffle-lz4     134 /  518       418 /  367        701 /  628        319 / 268
    gzip                74 /  483       274 /  108        433 /  202        235 /  87
"""

import functools
import math
import zlib
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.shard.filter import Filter, fletcher32

CODECS = ("raw", "lz4", "bitshuffle-lz4", "gzip")

FLETCHER32_ID = 3
FILTER_IDS = {
    "raw": (FLETCHER32_ID,),
    "lz4": (32004, FLETCHER32_ID),
    "bitshuffle-lz4": (32008, FLETCHER32_ID),
    "gzip": (1, FLETCHER32_ID),
}
"""HDF5's registered numbers of the filters a codec is made of, in order."""

_FLETCHER32_BYTES = 4
_GZIP_LEVEL = 4
_PLUGINS = {"lz4": "lz4", "bitshuffle-lz4": "bshuf"}


def filters(codec: str) -> dict[str, Any]:
    """``create_dataset`` keywords of the codec called ``codec``, fletcher32 behind it; ``InputError`` if unknown."""
    if codec == "raw":
        return {"fletcher32": True}
    if codec == "gzip":
        return {"compression": "gzip", "compression_opts": _GZIP_LEVEL, "fletcher32": True}
    if codec not in CODECS:
        raise InputError(f"unknown codec {codec!r}", f"choose one of {', '.join(CODECS)}")
    import hdf5plugin

    compressor = hdf5plugin.LZ4() if codec == "lz4" else hdf5plugin.Bitshuffle(cname="lz4")
    return {**compressor, "fletcher32": True}


def encode(pictures: NDArray[np.uint8], codec: str) -> bytes:
    """One row of a picture column as the chunk that HDF5 would store.

    Done outside HDF5, whose one lock would have threads wait for each other; so is what ``Decoder`` does.
    """
    if codec == "raw":
        content = pictures.tobytes()
    elif codec == "gzip":
        content = zlib.compress(np.ascontiguousarray(pictures).data, _GZIP_LEVEL)
    else:
        content = Filter(_PLUGINS[codec], _own_values(codec)).encode(pictures)
    return content + fletcher32(content)


class Decoder:
    """Reads the rows of a picture column that was written through the codec called ``codec``."""

    def __init__(self, dataset: h5py.Dataset, codec: str) -> None:
        self._id, self._codec, self._shape = dataset.id, codec, dataset.shape[1:]
        self._bytes, self._tail = math.prod(self._shape), (0,) * len(self._shape)
        plugin = _PLUGINS.get(codec)
        self._filter = Filter(plugin, dataset.id.get_create_plist().get_filter(0)[2]) if plugin else None

    def chunk(self, row: int) -> bytes:
        """Row ``row`` as it lies in the file; ``ValueError`` where it did not go through all of the codec."""
        mask, chunk = self._id.read_direct_chunk((row, *self._tail))
        if mask:
            raise ValueError("a filter was left out when it was written")
        return bytes(chunk)

    def row(self, row: int) -> NDArray[np.uint8]:
        """Row ``row``, uint8 in the column's row shape, maybe read-only.

        fletcher32 is passed over where the decoder bears damage, the row's checksum being the stronger test.
        Raises ``OSError``, ``RuntimeError``, ``ValueError`` or ``zlib.error`` on damaged data.
        """
        stored = memoryview(self.chunk(row))
        content = stored[:-_FLETCHER32_BYTES]
        if self._filter is not None:
            if fletcher32(content) != stored[-_FLETCHER32_BYTES:]:
                raise ValueError("it fails the checksum of its chunk")
            return self._filter.decode(content, self._bytes).reshape(self._shape)
        if self._codec == "gzip":
            inflate = zlib.decompressobj()
            content = memoryview(inflate.decompress(content, self._bytes))
            if not inflate.eof:
                raise ValueError("its compressed data does not end where it should")
        if len(content) != self._bytes:
            raise ValueError(f"it holds {len(content)} bytes instead of {self._bytes}")
        return np.frombuffer(content, np.uint8).reshape(self._shape)


@functools.cache
def _own_values(codec: str) -> tuple[int, ...]:
    """What the codec's first filter is told in the files that are written here."""
    with h5py.File(f"values-of-{codec}", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("row", (1,), np.uint8, chunks=(1,), **filters(codec))
        values: tuple[int, ...] = dataset.id.get_create_plist().get_filter(0)[2]
        return values
