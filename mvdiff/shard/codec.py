"""Codecs of the picture columns, by name."""

from typing import Any

from mvdiff.errors import InputError

CODECS = ("raw", "lz4", "bitshuffle-lz4", "gzip")


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
