"""Read one shard, row by row, every row against its checksum."""

import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.shard.codec import prepare, read_row
from mvdiff.shard.layout import HDF5_ERRORS, SMALL_COLUMNS, open_file
from mvdiff.shard.schema import CAMERA_COLUMNS, CorruptRow, Sample, row_checksum
from mvdiff.shard.seal import DamagedShard


class ShardReader:
    """Rows of the shard at ``path``.

    The file is opened at the first use in each process, never carried over a fork or a pickle: a handle opened before
    a fork can read wrong data. The small columns are read once; pictures are read row by row.
    Raises ``InputError`` where the file is missing, damaged or no shard (see ``layout.open_file``).
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._forget()

    @classmethod
    def of_file(cls, path: Path, file: h5py.File) -> Self:
        """A reader of ``file``, opened by the caller from ``path``."""
        reader = cls(path)
        reader._take(file)
        return reader

    def _forget(self) -> None:
        self._file: h5py.File | None = None
        self._pictures: dict[str, h5py.Dataset] = {}
        self._columns: dict[str, NDArray[Any]] = {}
        self._attributes: dict[str, Any] = {}
        self._pid = 0

    def _opened(self) -> None:
        if self._file is None or self._pid != os.getpid():
            self._forget()
            self._take(open_file(self.path))

    def _take(self, file: h5py.File) -> None:
        try:
            columns = {column.name: file[column.name][...] for column in SMALL_COLUMNS}
            attributes = {key: getattr(value, "item", lambda v=value: v)() for key, value in file.attrs.items()}
        except HDF5_ERRORS as error:
            file.close()
            raise DamagedShard(self.path, f"has columns that cannot be read ({' '.join(str(error).split())})") from None
        prepare(attributes["codec"])
        self._pictures = {name: file[name] for name in ("views", "alpha") if name in file}
        self._file, self._columns, self._attributes, self._pid = file, columns, attributes, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._forget()

    def _name(self, column: str, row: int) -> str:
        return self._columns[column][row].decode("utf-8", "backslashreplace")

    def __len__(self) -> int:
        self._opened()
        return len(self._columns["checksum"])

    def ids(self) -> list[str]:
        """Sample ids, row by row."""
        return [self._name("sample_id", row) for row in range(len(self))]

    def recordings(self) -> list[str]:
        """Recordings, row by row."""
        return [self._name("recording", row) for row in range(len(self))]

    def checksums(self) -> list[int]:
        """Stored row checksums, row by row."""
        self._opened()
        return self._columns["checksum"].tolist()

    def checksum(self, row: int) -> int:
        """Stored checksum of one row."""
        self._opened()
        return int(self._columns["checksum"][row])

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes: ``schema``, ``version``, ``size``, ``rig``, ``codec`` and what the writer added."""
        self._opened()
        return dict(self._attributes)

    @property
    def rig(self) -> str:
        """Name of the rig that all rows were seen by."""
        return self.attributes["rig"]

    @property
    def size(self) -> int:
        """Height and width of the pictures in pixels."""
        return int(self.attributes["size"])

    @property
    def with_alpha(self) -> bool:
        """Whether the rows have alpha."""
        self._opened()
        return "alpha" in self._pictures

    def sample(self, row: int) -> Sample:
        """Row ``row``, 0 to ``len - 1``; ``CorruptRow`` if it cannot be read or fails its checksum.

        The arrays may be read-only.
        """
        self._opened()
        if not 0 <= row < len(self):
            raise IndexError(f"{self.path} has rows 0 to {len(self) - 1}, not {row}")
        sample_id, recording = self._name("sample_id", row), self._name("recording", row)
        codec = self._attributes["codec"]
        try:
            views = read_row(self._pictures["views"], row, codec)
            alpha = read_row(self._pictures["alpha"], row, codec) if "alpha" in self._pictures else None
        except (*HDF5_ERRORS, zlib.error) as error:
            raise CorruptRow(str(self.path), row, sample_id, f"it cannot be read ({_brief(error)})") from None
        cameras = [self._columns[column.name][row] for column in CAMERA_COLUMNS]
        if row_checksum(sample_id, recording, (views, alpha, *cameras)) != self.checksum(row):
            raise CorruptRow(str(self.path), row, sample_id, "it fails its checksum")
        try:
            return Sample(sample_id, recording, views, alpha, *(np.array(camera) for camera in cameras))
        except InputError as error:
            raise CorruptRow(str(self.path), row, sample_id, str(error)) from None

    def close(self) -> None:
        """Close the file in this process; the next use opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
