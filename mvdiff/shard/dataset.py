"""Many shards as one map-style data set."""

from pathlib import Path

from mvdiff.shard.index import ShardIndex
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import Sample


class ShardDataset:
    """Every sample of the shards at ``path``, by number. Picklable; files are opened lazily in each process."""

    def __init__(self, path: Path) -> None:
        self.index = ShardIndex.scan(path)
        self.ids = self.index.ids
        self.rig = self.index.rig
        self.size = self.index.size
        self._readers: dict[Path, ShardReader] = {}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample:
        path, row = self.index.locate(i)
        if path not in self._readers:
            self._readers[path] = ShardReader(path)
        return self._readers[path].sample(row)
