"""An open shard: a file that nobody vouches for, checked before any of it is believed."""

import os
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from mvdiff.shard.codec import CODECS, FILTER_IDS, FLETCHER32_ID, Decoder
from mvdiff.shard.layout import SMALL_CHUNK_ROWS, SMALL_COLUMNS
from mvdiff.shard.row import Row
from mvdiff.shard.schema import (
    CAMERA_COLUMNS,
    CHECKSUM_COLUMN,
    MAX_NAME_BYTES,
    MAX_SIZE,
    NAME_COLUMNS,
    PICTURES,
    SCHEMA,
    VERSION,
    Column,
    picture_columns,
)
from mvdiff.shard.seal import DamagedShard, check_seal

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises on damaged files."""


class Handle:
    """The shard at ``path``, open for reading in the process ``pid``.

    A shard may only hold what the schema says: anything that leads out of the file (external links and storage,
    virtual datasets) or claims more rows or pixels than the file has bytes for is refused, as is a header that fails
    its checksum. Raises ``InputError`` with the reason.
    """

    attributes: dict[str, Any]
    """Root attributes as plain Python values."""
    datasets: dict[str, h5py.Dataset]
    """Columns by name."""
    rows: int
    pid: int

    def __init__(self, path: Path, sealed: bool = True) -> None:
        """``sealed=False`` trusts HDF5 with a header whose checksum is not looked at: it may crash or hang."""
        if sealed:
            check_seal(path)
        self.path = path
        self.pid = os.getpid()
        self._values: dict[str, NDArray[Any]] = {}
        self._decoders: dict[str, Decoder] = {}
        try:
            self._file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=0)
        except HDF5_ERRORS as error:
            raise DamagedShard(path, f"is no HDF5 file ({brief(error)})") from None
        try:
            problem = self._examine()
        except HDF5_ERRORS as error:
            problem = f"cannot be read ({brief(error)})"
        if problem:
            self.close()
            raise DamagedShard(path, problem)

    def _examine(self) -> str | None:
        """Fill the attributes of this object from the file; why it is no shard, if it is none."""
        found = dict(self._file.attrs)
        self.attributes = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in found.items()
        }
        if self.attributes.get("schema") != SCHEMA or self.attributes.get("version") != VERSION:
            return f"is no shard: its root does not name the schema {SCHEMA} {VERSION}"
        size, codec = self.attributes.get("size"), self.attributes.get("codec")
        if not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
            return f"declares pictures of {size} pixels, and 1 to {MAX_SIZE} are allowed"
        if codec not in CODECS:
            return f"uses the unknown codec {codec!r}"
        if not isinstance(self.attributes.get("rig"), str):
            return "does not name its rig"
        there = set(self._file)
        pictures = picture_columns(size, "alpha" in there)
        columns = (*pictures, *SMALL_COLUMNS)
        if strange := there - {column.name for column in columns}:
            return f"holds {min(strange)!r}, which is not in the schema"
        if missing := [column.name for column in columns if column.name not in there]:
            return f"lacks the column {missing[0]}"
        self.datasets = {}
        file_bytes = self.path.stat().st_size
        for column in columns:
            kind = self._file.id.links.get_info(column.name.encode()).type
            if kind != h5py.h5l.TYPE_HARD:
                return f"has {'a soft' if kind == h5py.h5l.TYPE_SOFT else 'an external'} link for {column.name}"
            # Not self._file[column.name], which costs twice the time, and an index opens thousands of shards.
            found_there = h5py.h5o.open(self._file.id, column.name.encode())
            if not isinstance(found_there, h5py.h5d.DatasetID):
                return f"has no dataset for {column.name}"
            dataset = h5py.Dataset(found_there, readonly=True)
            if problem := _column_problem(dataset, column, column in pictures, codec, file_bytes):
                return f"has a column {column.name} that {problem}"
            self.datasets[column.name] = dataset
        lengths = {name: dataset.shape[0] for name, dataset in self.datasets.items()}
        self.rows = lengths["views"]
        for name, length in lengths.items():
            if length != self.rows:
                return f"has {self.rows} rows of views and {length} of {name}"
        return None

    def column(self, name: str) -> NDArray[Any]:
        """All rows of a small column, read once; ``DamagedShard`` if it cannot be read."""
        if name not in self._values:
            dataset = self.datasets[name]
            values = np.empty(dataset.shape, dataset.dtype)
            try:
                dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            except HDF5_ERRORS as error:
                raise DamagedShard(self.path, f"has a column {name} that cannot be read ({brief(error)})") from None
            self._values[name] = values
        return self._values[name]

    def row(self, number: int) -> Row:
        """Row ``number`` as it lies in the file, not decoded."""
        sample_id, recording = (self.column(column.name)[number].decode() for column in NAME_COLUMNS)
        cameras = {column.name: self.column(column.name)[number] for column in CAMERA_COLUMNS}
        chunks = tuple(self.pictures(name).chunk(number) for name in PICTURES if name in self.datasets)
        return Row(sample_id, recording, int(self.column(CHECKSUM_COLUMN.name)[number]), cameras, chunks)

    def pictures(self, name: str) -> Decoder:
        """What reads the rows of a picture column."""
        if name not in self._decoders:
            self._decoders[name] = Decoder(self.datasets[name], self.attributes["codec"])
        return self._decoders[name]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def brief(error: BaseException) -> str:
    """An error's message in one line that is not too long."""
    return " ".join(str(error).split())[:200]


def _column_problem(dataset: h5py.Dataset, column: Column, picture: bool, codec: str, file_bytes: int) -> str | None:
    shape, chunks, dtype = dataset.shape, dataset.chunks, dataset.dtype
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        return "is a virtual dataset"
    if plist.get_external_count():
        return "lies in an external file"
    if column in NAME_COLUMNS:
        if dtype.kind != "S" or not 0 < dtype.itemsize <= MAX_NAME_BYTES:
            return f"is {dtype} instead of text of up to {MAX_NAME_BYTES} bytes"
    elif dtype != column.dtype:
        return f"is {dtype} instead of {column.dtype}"
    if shape[1:] != column.shape or len(shape) != 1 + len(column.shape):
        return f"is {list(shape)} instead of {['N', *column.shape]}"
    if not chunks or chunks[1:] != column.shape:
        return "is not chunked by rows"
    if chunks[0] > (1 if picture else SMALL_CHUNK_ROWS):
        return f"has chunks of {chunks[0]} rows"
    found = tuple(plist.get_filter(k)[0] for k in range(plist.get_nfilters()))
    if found != (FILTER_IDS[codec] if picture else (FLETCHER32_ID,)):
        return f"went through the filters {list(found)}, not those of its codec"
    stored = dataset.id.get_storage_size()
    if stored > file_bytes or (not picture and stored < shape[0] * dtype.itemsize):
        return f"declares {shape[0]} rows, more than the file holds"
    return None
