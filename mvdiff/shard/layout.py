"""How a shard lies in HDF5, and how the file is made from its rows."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from mvdiff.shard.codec import filters
from mvdiff.shard.schema import (
    CAMERA_COLUMNS,
    CHECKSUM_COLUMN,
    NAME_COLUMNS,
    Column,
    Sample,
    picture_columns,
)
from mvdiff.shard.seal import USER_BLOCK, apply_seal
from mvdiff.shard.sink import Sink

SMALL_CHUNK_ROWS = 1024
"""Rows a chunk of the small columns: an index over thousands of shards reads one chunk a column and shard."""

SMALL_COLUMNS = (*CAMERA_COLUMNS, *NAME_COLUMNS, CHECKSUM_COLUMN)


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
