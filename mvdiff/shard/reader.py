"""Read one shard, row by row, every row against its checksum."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.shard.handle import HDF5_ERRORS, Handle, brief
from mvdiff.shard.schema import CAMERA_COLUMNS, SINGLE_ATTRIBUTE, CorruptRow, Sample, row_checksum
from mvdiff.shard.seal import DamagedShard


class ShardReader:
    """Rows of the shard at ``path``.

    The file is opened at the first use in each process, never carried over a fork or a pickle: a handle opened before
    a fork can read wrong data. Each small column is read once; pictures are read row by row. Threads may
    share a reader. Raises ``InputError`` where the file is missing, damaged or no shard (see ``Handle``).
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._handle: Handle | None = None

    @classmethod
    def of_handle(cls, handle: Handle) -> Self:
        """A reader of a shard that the caller opened."""
        reader = cls(handle.path)
        reader._handle = handle
        return reader

    def _opened(self) -> Handle:
        handle = self._handle
        if handle is None or handle.pid != os.getpid():
            handle = self._handle = Handle(self.path)
        return handle

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_handle": None}

    def __len__(self) -> int:
        return self._opened().rows

    def ids(self) -> list[str]:
        """Sample ids, row by row."""
        return [_text(name) for name in self._opened().column("sample_id")]

    def recordings(self) -> list[str]:
        """Recordings, row by row."""
        return [_text(name) for name in self._opened().column("recording")]

    def checksums(self) -> list[int]:
        """Stored row checksums, row by row."""
        return self._opened().column("checksum").tolist()

    def checksum(self, row: int) -> int:
        """Stored checksum of one row."""
        return int(self._opened().column("checksum")[row])

    def directions(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Azimuth and elevation float32 [N, 6] in degrees of every row's cameras."""
        handle = self._opened()
        return handle.column("azimuth"), handle.column("elevation")

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes: ``schema``, ``version``, ``size``, ``rig``, ``codec`` and what the writer added."""
        return dict(self._opened().attributes)

    @property
    def single(self) -> bool:
        """Whether only view 0 of its samples is known."""
        return bool(self._opened().attributes.get(SINGLE_ATTRIBUTE))

    @property
    def rig(self) -> str:
        """Name of the rig that all rows were seen by."""
        return self._opened().attributes["rig"]

    @property
    def size(self) -> int:
        """Height and width of the pictures in pixels."""
        return self._opened().attributes["size"]

    @property
    def with_alpha(self) -> bool:
        """Whether the rows have alpha."""
        return "alpha" in self._opened().datasets

    def sample(self, row: int) -> Sample:
        """Row ``row``, 0 to ``len - 1``; ``CorruptRow`` if it cannot be read or fails its checksum.

        The arrays may be read-only.
        """
        handle = self._opened()
        if not 0 <= row < handle.rows:
            raise IndexError(f"{self.path} has rows 0 to {handle.rows - 1}, not {row}")
        sample_id, recording = _text(handle.column("sample_id")[row]), _text(handle.column("recording")[row])
        views: NDArray[np.uint8] | None = None
        alpha: NDArray[np.uint8] | None = None

        def columns() -> Iterator[NDArray[Any] | None]:
            # Each is hashed before the next one is decoded, while the processor's cache still holds it.
            nonlocal views, alpha
            yield (views := handle.pictures("views").row(row))
            if "alpha" in handle.datasets:
                alpha = handle.pictures("alpha").row(row)
            yield alpha
            yield from cameras

        try:
            cameras = [handle.column(column.name)[row] for column in CAMERA_COLUMNS]
            checksum = row_checksum(sample_id, recording, columns())
        except DamagedShard as error:
            raise CorruptRow(str(self.path), row, sample_id, f"its shard {error.why}") from None
        except (*HDF5_ERRORS, zlib.error) as error:
            raise CorruptRow(str(self.path), row, sample_id, f"it cannot be read ({brief(error)})") from None
        if checksum != handle.column("checksum")[row]:
            raise CorruptRow(str(self.path), row, sample_id, "it fails its checksum")
        try:
            assert views is not None
            return Sample(sample_id, recording, views, alpha, *(camera.copy() for camera in cameras))
        except InputError as error:
            raise CorruptRow(str(self.path), row, sample_id, str(error)) from None

    def close(self) -> None:
        """Close the file in this process; the next use opens it again."""
        if self._handle is not None and self._handle.pid == os.getpid():
            self._handle.close()
        self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
