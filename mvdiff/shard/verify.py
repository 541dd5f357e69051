"""Check every byte of shards against their checksums."""

from dataclasses import dataclass
from pathlib import Path

from mvdiff.errors import InputError
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import CorruptRow


@dataclass(frozen=True)
class BadRow:
    """A row that fails, or a whole shard that cannot be read (``row`` -1)."""

    path: Path
    row: int
    sample_id: str
    why: str


def verify_shard(path: Path) -> list[BadRow]:
    """Every bad row of the shard ``path``; a file that is no readable shard is one bad row -1."""
    bad: list[BadRow] = []
    reader = ShardReader(path)
    try:
        rows = len(reader)
    except InputError as error:
        return [BadRow(path, -1, "", str(error))]
    for row in range(rows):
        try:
            reader.sample(row)
        except CorruptRow as error:
            bad.append(BadRow(path, row, error.sample_id, error.why))
    return bad
