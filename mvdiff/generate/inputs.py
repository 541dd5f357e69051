"""Input samples as the plan names them."""

from collections import OrderedDict
from pathlib import Path

from mvdiff.errors import InputError
from mvdiff.shard import Sample, ShardReader

OPEN_SHARDS = 8


class Unreadable(Exception):
    """An input row that is not there, not whole, or not the one that was planned."""


class InputReader:
    """Reads planned rows and keeps the last few shards open."""

    def __init__(self) -> None:
        self._readers: OrderedDict[Path, ShardReader] = OrderedDict()

    def read(self, shard: Path, row: int, sample_id: str, checksum: int) -> Sample:
        """The sample in ``row`` of ``shard``; ``Unreadable`` unless it is whole and the one planned."""
        if shard not in self._readers:
            self._readers[shard] = ShardReader(shard)
            if len(self._readers) > OPEN_SHARDS:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(shard)
        reader = self._readers[shard]
        try:
            sample = reader.sample(row)
            planned = (sample.sample_id, reader.checksum(row)) == (sample_id, checksum)
        except InputError as error:
            raise Unreadable(error.what) from error
        except (OSError, LookupError, RuntimeError, ValueError) as error:
            raise Unreadable(f"{shard} row {row}: {error}") from error
        if not planned:
            raise Unreadable(f"{shard} row {row} is not the {sample_id} that was planned")
        return sample

    def close(self) -> None:
        """Close the shards."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
