"""How a shard lies in HDF5: creating the file from rows, and opening one that nobody vouches for."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from mvdiff.shard.codec import CODECS, filters
from mvdiff.shard.schema import (
    CAMERA_COLUMNS,
    CHECKSUM_COLUMN,
    MAX_SIZE,
    NAME_COLUMNS,
    SCHEMA,
    VERSION,
    Column,
    Sample,
    picture_columns,
)
from mvdiff.shard.seal import USER_BLOCK, DamagedShard, apply_seal, check_seal
from mvdiff.shard.sink import Sink

SMALL_CHUNK_ROWS = 1024
"""Rows a chunk of the small columns: an index over thousands of shards reads one chunk a column and shard."""

SMALL_COLUMNS = (*CAMERA_COLUMNS, *NAME_COLUMNS, CHECKSUM_COLUMN)

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises on damaged files."""

_FILTER_IDS = {"raw": (3,), "lz4": (32004, 3), "bitshuffle-lz4": (32008, 3), "gzip": (1, 3)}


def create_file(
    path: Path,
    root: Mapping[str, str | int | float],
    with_alpha: bool,
    count: int,
    rows: Iterable[Sample],
) -> None:
    """Write the ``count`` samples of ``rows`` to ``path``, sealed and synced. The same rows give the same bytes.

    ``root`` holds the root attributes, among them ``size`` and ``codec``. Raises ``OSError`` (a full disk) and leaves a
    file of no use then.
    """
    sink = Sink(path)
    try:
        with h5py.File(sink, "w", userblock_size=USER_BLOCK) as file:
            for key in sorted(root):
                file.attrs[key] = root[key]
            pictures = picture_columns(int(root["size"]), with_alpha)
            for column in pictures:
                _create_column(file, column, count, 1, filters(str(root["codec"])))
            for column in SMALL_COLUMNS:
                _create_column(file, column, count, min(max(count, 1), SMALL_CHUNK_ROWS), {"fletcher32": True})
            _lay_out_index(file, sink)
            _fill(file, sink, pictures, count, rows)
            file.flush()
            chunks = set(_chunk_offsets(file)) if sink.error is None else set()
    finally:
        sink.close()
    if sink.error:
        raise sink.error
    apply_seal(path, max(offset + length for offset, length in sink.writes if offset not in chunks))


def _lay_out_index(file: h5py.File, sink: Sink) -> None:
    """Give every chunk one byte, so that HDF5's whole chunk index lies before the first real chunk.

    The header, whose checksum every reader checks, is then short; overwriting a chunk moves it and leaves its place in
    the index.
    """
    for name in file:
        dataset = file[name]
        for row in range(0, dataset.shape[0], dataset.chunks[0]):
            if sink.error is None:
                dataset.id.write_direct_chunk((row,) + (0,) * (dataset.ndim - 1), b"\0")
    file.flush()


def _fill(file: h5py.File, sink: Sink, pictures: tuple[Column, ...], count: int, rows: Iterable[Sample]) -> None:
    small = {column.name: np.zeros((count, *column.shape), file[column.name].dtype) for column in SMALL_COLUMNS}
    datasets = [(column.name, file[column.name]) for column in pictures]
    for row, sample in enumerate(rows):
        for name, dataset in datasets:
            dataset[row] = getattr(sample, name)
        for column in CAMERA_COLUMNS:
            small[column.name][row] = getattr(sample, column.name)
        for column in NAME_COLUMNS:
            small[column.name][row] = getattr(sample, column.name).encode()
        small[CHECKSUM_COLUMN.name][row] = sample.checksum()
        if sink.error:
            return
    for name, values in small.items():
        file[name][...] = values


def _create_column(file: h5py.File, column: Column, count: int, chunk_rows: int, options: dict[str, object]) -> None:
    names = column in NAME_COLUMNS
    file.create_dataset(
        column.name,
        (count, *column.shape),
        h5py.string_dtype("utf-8", column.dtype.itemsize) if names else column.dtype,
        chunks=(chunk_rows, *column.shape),
        maxshape=(max(count, 1), *column.shape),
        track_times=False,
        **options,
    )


def _chunk_offsets(file: h5py.File) -> list[int]:
    offsets: list[int] = []
    for name in file:
        file[name].id.chunk_iter(lambda chunk: offsets.append(chunk.byte_offset))
    return offsets


def open_file(path: Path) -> h5py.File:
    """Open the shard at ``path`` for reading; ``InputError`` with the reason if it is none, or damaged, or a trap.

    A shard may only hold what the schema says: anything that leads out of the file (external links and storage,
    virtual datasets) or claims more rows or pixels than the file has bytes for is refused.
    """
    check_seal(path)
    return open_unsealed(path)


def open_unsealed(path: Path) -> h5py.File:
    """As ``open_file``, but trusting HDF5 with a header whose checksum was not looked at: it may crash or hang."""
    try:
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=0)
    except HDF5_ERRORS as error:
        raise DamagedShard(path, f"is no HDF5 file ({_brief(error)})") from None
    try:
        problem = _problem(file, path.stat().st_size)
    except HDF5_ERRORS as error:
        problem = f"cannot be read ({_brief(error)})"
    if problem:
        file.close()
        raise DamagedShard(path, problem)
    return file


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _problem(file: h5py.File, file_bytes: int) -> str | None:
    """Why ``file`` is not laid out as a shard."""
    if file.attrs.get("schema") != SCHEMA or file.attrs.get("version") != VERSION:
        return f"is no shard: its root does not name the schema {SCHEMA} {VERSION}"
    size, codec = file.attrs.get("size"), file.attrs.get("codec")
    if not isinstance(size, np.integer) or not 1 <= size <= MAX_SIZE:
        return f"declares pictures of {size} pixels, and 1 to {MAX_SIZE} are allowed"
    if codec not in CODECS:
        return f"uses the unknown codec {codec!r}"
    if not isinstance(file.attrs.get("rig"), str):
        return "does not name its rig"
    pictures = picture_columns(int(size), "alpha" in file)
    columns = (*pictures, *SMALL_COLUMNS)
    names = [column.name for column in columns]
    for name in file:
        if name not in names:
            return f"holds {name!r}, which is not in the schema"
    rows = None
    for column in columns:
        link = file.get(column.name, getlink=True)
        if link is None:
            return f"lacks the column {column.name}"
        if not isinstance(link, h5py.HardLink):
            return f"has {'an external' if isinstance(link, h5py.ExternalLink) else 'a soft'} link for {column.name}"
        dataset = file[column.name]
        if not isinstance(dataset, h5py.Dataset):
            return f"has no dataset for {column.name}"
        problem = _column_problem(dataset, column, column in pictures, codec, file_bytes)
        if problem:
            return f"has a column {column.name} that {problem}"
        rows = dataset.shape[0] if rows is None else rows
        if dataset.shape[0] != rows:
            return f"has {rows} rows of views and {dataset.shape[0]} of {column.name}"
    return None


def _column_problem(dataset: h5py.Dataset, column: Column, picture: bool, codec: str, file_bytes: int) -> str | None:
    plist = dataset.id.get_create_plist()
    if dataset.is_virtual:
        return "is a virtual dataset"
    if plist.get_external_count():
        return "lies in an external file"
    if dataset.dtype != column.dtype:
        return f"is {dataset.dtype} instead of {column.dtype}"
    if dataset.shape[1:] != column.shape or dataset.ndim != 1 + len(column.shape):
        return f"is {list(dataset.shape)} instead of {['N', *column.shape]}"
    if not dataset.chunks or dataset.chunks[1:] != column.shape:
        return "is not chunked by rows"
    if dataset.chunks[0] > (1 if picture else SMALL_CHUNK_ROWS):
        return f"has chunks of {dataset.chunks[0]} rows"
    found = tuple(plist.get_filter(k)[0] for k in range(plist.get_nfilters()))
    if found != (_FILTER_IDS[codec] if picture else (3,)):
        return f"went through the filters {list(found)}, not those of its codec"
    stored = dataset.id.get_storage_size()
    if stored > file_bytes or (not picture and stored < dataset.shape[0] * column.dtype.itemsize):
        return f"declares {dataset.shape[0]} rows, more than the file holds"
    return None
