"""A file for HDF5 to write to that never fails: it keeps the first error for later instead."""

import io
import os
from pathlib import Path
from typing import Any


class Sink(io.RawIOBase):
    """Random-access file at ``path`` for ``h5py.File(sink, "w")``.

    HDF5 leaves its library in ruins when a write fails during close, and the interpreter dies with it (seen with h5py
    3.16 on a full disk). Here a failed write is noted in ``error`` and all later ones are dropped, so HDF5 closes
    cleanly; the caller looks at ``error`` afterwards and deletes the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.error: OSError | None = None
        self.writes: list[tuple[int, int]] = []
        """Offset and length of every write, in order."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._at = 0
        self._size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        read = os.preadv(self._handle, [view], self._at)
        view[read:] = bytes(len(view) - read)
        self._at += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.writes.append((self._at, len(view)))
        written = 0
        while self.error is None and written < len(view):
            try:
                written += os.pwrite(self._handle, view[written:], self._at + written)
            except OSError as error:
                self.error = error
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._at if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self._handle, self._size)
            except OSError as error:
                self.error = error
        return self._size

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()
