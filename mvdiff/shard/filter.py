"""HDF5's filters, called outside HDF5: there one lock serves all threads, and the interpreter waits for it as well.

The libraries are hdf5plugin's, found and called as HDF5 does it (``H5PLget_plugin_info`` and ``H5Z_class2_t`` in
H5PLextern.h and H5Zpublic.h), so the bytes are the same ones. ctypes lets other threads run meanwhile.
"""

import ctypes
import functools
import weakref
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

_REVERSE = 0x0100
_LENGTH_BYTES = 8

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.restype = None
_libc.free.argtypes = [ctypes.c_void_p]

_FUNCTION = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.c_uint,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.POINTER(ctypes.c_void_p),
)


class _Class(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("id", ctypes.c_int),
        ("encoder_present", ctypes.c_uint),
        ("decoder_present", ctypes.c_uint),
        ("name", ctypes.c_char_p),
        ("can_apply", ctypes.c_void_p),
        ("set_local", ctypes.c_void_p),
        ("filter", _FUNCTION),
    )


class Filter:
    """The filter that hdf5plugin calls ``name`` (``lz4``, ``bshuf``), with the values that a dataset keeps for it.

    Both of these begin what they encode with the length of what it was, 8 bytes, big-endian.
    """

    def __init__(self, name: str, values: tuple[int, ...]) -> None:
        self._name, self._call = name, _library(name).filter
        self._values, self._count = (ctypes.c_uint * len(values))(*values), len(values)

    def encode(self, content: NDArray[np.uint8]) -> bytes:
        """``content``, of any shape, as HDF5 would store it."""
        content = np.ascontiguousarray(content)
        address, length = self._apply(0, content.ctypes.data, content.nbytes)
        try:
            return ctypes.string_at(address, length)
        finally:
            _libc.free(address)

    def decode(self, stored: bytes | memoryview, length: int) -> NDArray[np.uint8]:
        """The ``length`` bytes, uint8 [length], that were encoded as ``stored``; ``ValueError`` if they were not.

        What is damaged must not come here: the decoders believe what they read.
        """
        declared = int.from_bytes(stored[:_LENGTH_BYTES], "big")
        if declared != length:
            raise ValueError(f"it holds {declared} bytes instead of {length}")
        source = np.frombuffer(stored, np.uint8)
        address, found = self._apply(_REVERSE, source.ctypes.data, source.nbytes)
        owner = (ctypes.c_ubyte * length).from_address(address)
        weakref.finalize(owner, _libc.free, address)
        if found != length:
            raise ValueError(f"it holds {found} bytes instead of {length}")
        return np.frombuffer(memoryview(owner), np.uint8)

    def _apply(self, flags: int, source: int, length: int) -> tuple[int, int]:
        """Address, to be freed, and length of what the filter makes of ``length`` bytes at ``source``."""
        buffer, size = ctypes.c_void_p(_libc.malloc(length)), ctypes.c_size_t(length)
        if not buffer.value:
            raise MemoryError
        ctypes.memmove(buffer, source, length)
        made = self._call(flags, self._count, self._values, length, ctypes.byref(size), ctypes.byref(buffer))
        assert buffer.value is not None
        if not made:
            _libc.free(buffer.value)
            raise ValueError(f"the filter {self._name} fails on it")
        return buffer.value, made


def fletcher32(content: memoryview | bytes) -> bytes:
    """The 4 bytes that HDF5's fletcher32 filter puts behind ``content``."""
    source = np.frombuffer(content, np.uint8)
    return int(_fletcher32()(source.ctypes.data, source.nbytes)).to_bytes(4, "little")


@functools.cache
def _library(name: str) -> _Class:
    import hdf5plugin

    (path,) = Path(hdf5plugin.PLUGINS_PATH).glob(f"libh5{name}.*")
    info = ctypes.CDLL(str(path)).H5PLget_plugin_info
    info.restype = ctypes.POINTER(_Class)
    found: _Class = info().contents
    return found


@functools.cache
def _fletcher32() -> "ctypes._NamedFuncPointer":
    # h5py's own library is linked to HDF5, whose symbols are found through it.
    function = ctypes.CDLL(h5py.h5z.__file__).H5_checksum_fletcher32
    function.restype = ctypes.c_uint32
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return function
