"""Read generated views back by sample id."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.generate.inputs import OPEN_SHARDS
from mvdiff.generate.plan import SET_FILE
from mvdiff.shard import Sample, ShardIndex, ShardReader


class ResultStore:
    """The generated views of a result set: ``store[sample_id]`` -> uint8 [6, H, W, 3], checked against its checksum.

    ``path`` is a result set, a folder that holds exactly one, or any shards. The store holds what was published when it
    was made. ``InputError`` when there is nothing to read, or more than one set to choose from; ``CorruptRow`` when a
    row that is asked for fails its checksum. Picklable; files are opened as they are needed, in each process.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = result_set(Path(path))
        if (self.path / SET_FILE).exists() and not any(self.path.glob("slice-*.h5")):
            raise InputError(f"{self.path} holds no results yet", "run mvdiff generate to the end of its first slice")
        self._index = ShardIndex.scan(self.path)
        self._places = {sample_id: i for i, sample_id in enumerate(self._index.ids)}
        self._readers: dict[Path, ShardReader] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._places

    def ids(self) -> list[str]:
        """Ids of all samples, in the order of iteration."""
        return list(self._index.ids)

    def __getitem__(self, sample_id: str) -> NDArray[np.uint8]:
        return self.sample(sample_id).views

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Pairs of a sample's id and its views uint8 [6, H, W, 3]."""
        return ((sample_id, self[sample_id]) for sample_id in self._index.ids)

    def sample(self, sample_id: str) -> Sample:
        """The views with the cameras they are seen by; ``KeyError`` for an id that is not there."""
        shard, row = self._index.locate(self._places[sample_id])
        if shard not in self._readers:
            if len(self._readers) >= OPEN_SHARDS:
                self._readers.pop(next(iter(self._readers))).close()
            self._readers[shard] = ShardReader(shard)
        return self._readers[shard].sample(row)

    def identity(self) -> str:
        """What tells this store from others: its result set, which may grow; of plain shards a hash of their rows."""
        return str(self.attributes().get("result_set", "")) or self._index.fingerprint()

    def attributes(self) -> dict[str, Any]:
        """What made the results: checkpoint, steps, guidance, seed, ... (of the first file)."""
        with ShardReader(self._index.shards[0]) as reader:
            return reader.attributes


def result_set(path: Path) -> Path:
    """``path`` itself if it is a result set, the only set in it if it holds one, and ``path`` if it holds none."""
    if (path / SET_FILE).exists() or not path.is_dir():
        return path
    sets = sorted(file.parent for file in path.glob(f"*/{SET_FILE}"))
    if len(sets) > 1:
        raise InputError(
            f"{path} holds {len(sets)} result sets ({', '.join(found.name for found in sets)})", "name one of them"
        )
    return sets[0] if sets else path
