"""Read one shard, row by row, every row against its checksum."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mvdiff.errors import InputError
from mvdiff.shard.schema import SCHEMA, CorruptRow, Sample


class ShardReader:
    """Rows of the shard ``path``. The file is opened at the first use in each process."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = 0

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            try:
                self._file = h5py.File(self.path, "r", locking="best-effort")
            except OSError as error:
                raise InputError(f"{self.path} is no readable shard ({error})", "pack it again") from None
            if self._file.attrs.get("schema") != SCHEMA:
                raise InputError(f"{self.path} is no shard", "give a shard")
            self._pid = os.getpid()
            self._ids = [name.decode() for name in self._file["sample_id"][:]]
            self._checksums = self._file["checksum"][:]
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_pid": 0}

    def __len__(self) -> int:
        self._open()
        return len(self._ids)

    def ids(self) -> list[str]:
        """Sample ids, row by row."""
        self._open()
        return list(self._ids)

    def recordings(self) -> list[str]:
        """Recordings, row by row."""
        return [name.decode() for name in self._open()["recording"][:]]

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes."""
        return dict(self._open().attrs)

    @property
    def rig(self) -> str:
        """Name of the rig."""
        return self.attributes["rig"]

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.attributes["size"])

    def checksum(self, row: int) -> int:
        """The row's stored checksum."""
        self._open()
        return int(self._checksums[row])

    def sample(self, row: int) -> Sample:
        """The row, checked against its checksum; ``CorruptRow`` if it fails."""
        file = self._open()
        try:
            sample = Sample(
                self._ids[row],
                file["recording"][row].decode(),
                file["views"][row],
                file["alpha"][row] if "alpha" in file else None,
                *(np.asarray(file[name][row]) for name in ("w2c", "intrinsics", "azimuth", "elevation")),
            )
        except OSError as error:
            raise CorruptRow(str(self.path), row, self._ids[row], str(error)) from None
        if sample.checksum() != self.checksum(row):
            raise CorruptRow(str(self.path), row, self._ids[row], "fails its checksum")
        return sample
