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

import zlib
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError

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


def filters(codec: str) -> dict[str, Any]:
    """``create_dataset`` keywords of the codec called ``codec``, fletcher32 behind it; ``InputError`` if unknown."""
    if codec == "raw":
        return {"fletcher32": True}
    if codec == "gzip":
        return {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
    if codec not in CODECS:
        raise InputError(f"unknown codec {codec!r}", f"choose one of {', '.join(CODECS)}")
    import hdf5plugin

    compressor = hdf5plugin.LZ4() if codec == "lz4" else hdf5plugin.Bitshuffle(cname="lz4")
    return {**compressor, "fletcher32": True}


def prepare(codec: str) -> None:
    """Load what HDF5 needs to read ``codec`` in this process."""
    if codec in ("lz4", "bitshuffle-lz4"):
        import hdf5plugin  # noqa: F401


def read_row(dataset: h5py.Dataset, row: int, codec: str) -> NDArray[np.uint8]:
    """Row ``row`` of a picture column, uint8 in the column's row shape, maybe read-only.

    raw and gzip take the chunk as it lies on disk and decode it outside HDF5's global lock, so that threads scale;
    fletcher32 is passed over there, the row's checksum being the stronger test. The others decode inside HDF5.
    Raises ``OSError``, ``RuntimeError``, ``ValueError`` or ``zlib.error`` on damaged data.
    """
    shape = dataset.shape[1:]
    if codec not in ("raw", "gzip"):
        return dataset[row]
    mask, chunk = dataset.id.read_direct_chunk((row,) + (0,) * len(shape))
    if mask:
        raise ValueError("a filter was left out when it was written")
    content = memoryview(chunk)[:-_FLETCHER32_BYTES]
    expected = int(np.prod(shape))
    if codec == "gzip":
        inflate = zlib.decompressobj()
        content = memoryview(inflate.decompress(content, expected))
        if not inflate.eof:
            raise ValueError("its compressed data does not end where it should")
    if len(content) != expected:
        raise ValueError(f"it holds {len(content)} bytes instead of {expected}")
    return np.frombuffer(content, np.uint8).reshape(shape)
