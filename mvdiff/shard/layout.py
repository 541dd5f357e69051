"""How a shard lies in HDF5, and how the file is made from its rows."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from mvdiff.shard.codec import filters
from mvdiff.shard.row import Row
from mvdiff.shard.schema import (
    CAMERA_COLUMNS,
    CHECKSUM_COLUMN,
    NAME_COLUMNS,
    Column,
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
    name_bytes: int,
    rows: Iterable[Row],
) -> None:
    """Write the ``count`` rows to ``path``, sealed and synced. The same rows give the same bytes.

    ``root`` holds the root attributes, among them ``size`` and ``codec``; no name is longer than ``name_bytes``. Raises
    ``OSError`` (a full disk) and leaves a file of no use then.
    """
    sink = Sink(path)
    try:
        with h5py.File(sink, "w", userblock_size=USER_BLOCK) as file:
            for key in sorted(root):
                file.attrs[key] = root[key]
            pictures = picture_columns(int(root["size"]), with_alpha)
            datasets = {
                column.name: _create_column(file, column, count, 1, filters(str(root["codec"]))) for column in pictures
            }
            for column in SMALL_COLUMNS:
                if column in NAME_COLUMNS:
                    column = replace(column, dtype=h5py.string_dtype("utf-8", name_bytes))
                datasets[column.name] = _create_column(
                    file, column, count, min(max(count, 1), SMALL_CHUNK_ROWS), {"fletcher32": True}
                )
            _lay_out_index(datasets, sink)
            file.flush()
            _fill(datasets, sink, pictures, count, rows)
            file.flush()
            chunks = set(_chunk_offsets(datasets)) if sink.error is None else set()
    finally:
        sink.close()
    if sink.error:
        raise sink.error
    apply_seal(path, max(offset + length for offset, length in sink.writes if offset not in chunks))


def _lay_out_index(datasets: Mapping[str, h5py.Dataset], sink: Sink) -> None:
    """Give every chunk one byte, so that HDF5's whole chunk index lies before the first real chunk.

    The header, whose checksum every reader checks, is then short; overwriting a chunk moves it and leaves its place in
    the index.
    """
    for name in sorted(datasets):
        dataset = datasets[name]
        id_, tail = dataset.id, (0,) * (dataset.ndim - 1)
        for row in range(0, dataset.shape[0], dataset.chunks[0]):
            if sink.error is None:
                id_.write_direct_chunk((row, *tail), b"\0")


def _fill(
    datasets: Mapping[str, h5py.Dataset], sink: Sink, pictures: tuple[Column, ...], count: int, rows: Iterable[Row]
) -> None:
    small = {column.name: np.zeros((count, *column.shape), datasets[column.name].dtype) for column in SMALL_COLUMNS}
    columns = [(datasets[column.name].id, (0,) * len(column.shape)) for column in pictures]
    for number, row in enumerate(rows):
        for (id_, tail), chunk in zip(columns, row.chunks, strict=True):
            id_.write_direct_chunk((number, *tail), chunk)
        for name, values in row.cameras.items():
            small[name][number] = values
        for column in NAME_COLUMNS:
            small[column.name][number] = getattr(row, column.name).encode()
        small[CHECKSUM_COLUMN.name][number] = row.checksum
        if sink.error:
            return
    for name, values in small.items():
        datasets[name][...] = values


def _create_column(
    file: h5py.File, column: Column, count: int, chunk_rows: int, options: dict[str, object]
) -> h5py.Dataset:
    return file.create_dataset(
        column.name,
        (count, *column.shape),
        column.dtype,
        chunks=(chunk_rows, *column.shape),
        maxshape=(max(count, 1), *column.shape),
        track_times=False,
        **options,
    )


def _chunk_offsets(datasets: Mapping[str, h5py.Dataset]) -> list[int]:
    offsets: list[int] = []
    for dataset in datasets.values():
        dataset.id.chunk_iter(lambda chunk: offsets.append(chunk.byte_offset))
    return offsets
