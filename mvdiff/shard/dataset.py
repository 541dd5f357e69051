"""Many shards as one map-style data set."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvdiff.shard.index import ShardIndex
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import Sample

_OPEN_SHARDS = 128
"""Fits the usual limit of 1,024 open files with several data sets in a process."""


class ShardDataset:
    """Every sample of the shards at ``path``, by number: ``len(ds)``, ``ds[i]``, ``ds.ids``.

    Fits a torch ``DataLoader``: it is small to pickle, and each worker opens the files it reads. Raises ``InputError``
    as ``ShardIndex.scan`` does, and ``CorruptRow`` when a row fails its checksum.
    """

    def __init__(self, path: Path) -> None:
        self.index = ShardIndex.scan(path)
        self._readers: OrderedDict[Path, ShardReader] = OrderedDict()

    @property
    def ids(self) -> list[str]:
        """Sample ids, in order."""
        return self.index.ids

    @property
    def recordings(self) -> list[str]:
        """The recording of each sample, in order."""
        return self.index.recordings

    @property
    def rig(self) -> str:
        """Name of the rig that all samples were seen by."""
        return self.index.rig

    @property
    def size(self) -> int:
        """Height and width of the pictures in pixels."""
        return self.index.size

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample:
        path, row = self.index.locate(i)
        reader = self._readers.pop(path, None) or ShardReader(path)
        self._readers[path] = reader
        if len(self._readers) > _OPEN_SHARDS:
            self._readers.popitem(last=False)[1].close()
        return reader.sample(row)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.index = state["index"]
        self._readers = OrderedDict()
