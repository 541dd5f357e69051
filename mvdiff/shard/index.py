"""Where every sample of many shards lies. An index of its own: a virtual dataset reads a missing shard as zeros."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.progress import Progress
from mvdiff.rig import readable
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import name_problem
from mvdiff.shard.seal import DamagedShard

_MANY = 500
"""So many shards take seconds to scan, and progress is shown."""


def find_shards(path: Path) -> list[Path]:
    """The shard ``path``, or every shard in that folder and those below it, sorted.

    Hidden files are none: they are being written. Raises ``InputError`` where there is nothing.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist", "give a shard, or a folder that holds some")
    shards = sorted(
        p for p in path.rglob("*.h5") if not any(part.startswith(".") for part in p.relative_to(path).parts)
    )
    if not shards:
        raise InputError(f"{path} holds no shards", "give a folder with .h5 files; 'mvdiff pack' makes some")
    return shards


@dataclass(frozen=True)
class ShardIndex:
    """The samples of many shards as one sequence, ordered by shard path, then row."""

    shards: list[Path]
    ids: list[str]
    """Sample ids, all different."""
    recordings: list[str]
    rig: str
    size: int
    """Height and width of all pictures in pixels."""
    with_alpha: bool
    """Whether every shard has alpha."""
    _shard: NDArray[np.int32]
    _row: NDArray[np.int32]
    _checksum: NDArray[np.uint64]

    @classmethod
    def scan(cls, path: Path) -> Self:
        """Index the shard ``path``, or every shard in that folder and those below it.

        Reads headers and small columns only. Raises ``InputError`` where there is nothing, a file is damaged or no
        shard, two shards differ in rig or picture size, or two rows have the same id.
        """
        shards = find_shards(path)
        owner: dict[str, int] = {}
        recordings: list[str] = []
        rows: list[int] = []
        checksums: list[NDArray[np.uint64]] = []
        with_alpha = True
        first: ShardReader | None = None
        progress = Progress(f"index {path}", len(shards), "shards") if len(shards) >= _MANY else None
        if progress:
            progress.__enter__()
        for number, shard in enumerate(shards):
            with ShardReader(shard) as reader:
                traits = (reader.rig, reader.size)
                if first is None:
                    first, expected = reader, traits
                elif traits != expected:
                    raise InputError(
                        f"{shard} has rig {readable(traits[0])} at {traits[1]} pixels, "
                        f"and {shards[0]} {readable(expected[0])} at {expected[1]}",
                        "keep them in folders apart",
                    )
                for sample_id in reader.ids():
                    if problem := name_problem(sample_id):
                        raise DamagedShard(shard, f"holds the sample id {sample_id!r}: {problem}")
                    if sample_id in owner:
                        other = shards[owner[sample_id]]
                        raise InputError(
                            f"sample {sample_id} is in {other} and in {shard}",
                            "give a folder that holds each sample once, such as runs/NAME/shards/train",
                        )
                    owner[sample_id] = number
                recordings.extend(reader.recordings())
                checksums.append(np.array(reader.checksums(), np.uint64))
                rows.extend(range(len(reader)))
                with_alpha &= reader.with_alpha
            if progress:
                progress.advance()
        if progress:
            progress.__exit__(None, None, None)
        if not rows:
            raise InputError(f"{path} holds no samples", "its shards are empty: pack some samples first")
        return cls(
            shards,
            list(owner),
            recordings,
            *expected,
            with_alpha,
            np.fromiter(owner.values(), np.int32),
            np.array(rows, np.int32),
            np.concatenate(checksums),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def locate(self, i: int) -> tuple[Path, int]:
        """Shard and row of sample ``i``."""
        return self.shards[self._shard[i]], int(self._row[i])

    def fingerprint(self) -> str:
        """What the rows hold, whatever shards they lie in: xxh3_128 over every id and checksum, sorted."""
        rows = sorted(f"{sample_id} {self.checksum(i)}" for i, sample_id in enumerate(self.ids))
        return xxhash.xxh3_128_hexdigest("\n".join(rows).encode())

    def checksum(self, i: int) -> int:
        """Row checksum of sample ``i``, as ``Sample.checksum`` gives it."""
        return int(self._checksum[i])
