"""Where every sample of many shards lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mvdiff.errors import InputError
from mvdiff.shard.reader import ShardReader


@dataclass(frozen=True)
class ShardIndex:
    """Samples of many shards as one sequence, ordered by shard path, then row."""

    shards: list[Path]
    ids: list[str]
    recordings: list[str]
    rig: str
    size: int
    _rows: list[tuple[int, int, int]]

    @classmethod
    def scan(cls, path: Path) -> Self:
        """Index the shard ``path`` or every shard in that folder."""
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path} does not exist", "give a shard or a folder of shards")
        shards = [path] if path.is_file() else sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
        if not shards:
            raise InputError(f"{path} holds no shards", "pack some samples first")
        ids: dict[str, int] = {}
        recordings: list[str] = []
        rows: list[tuple[int, int, int]] = []
        rig, size = "", 0
        for number, shard in enumerate(shards):
            reader = ShardReader(shard)
            rig, size = reader.rig, reader.size
            for row, sample_id in enumerate(reader.ids()):
                if sample_id in ids:
                    other = shards[rows[ids[sample_id]][0]]
                    raise InputError(f"sample {sample_id} is in {other} and in {shard}", "remove one of them")
                ids[sample_id] = len(rows)
                rows.append((number, row, reader.checksum(row)))
            recordings.extend(reader.recordings())
        return cls(shards, list(ids), recordings, rig, size, rows)

    def __len__(self) -> int:
        return len(self.ids)

    def locate(self, i: int) -> tuple[Path, int]:
        """Shard and row of sample ``i``."""
        shard, row, _ = self._rows[i]
        return self.shards[shard], row

    def checksum(self, i: int) -> int:
        """Row checksum of sample ``i``."""
        return self._rows[i][2]
