"""The shards that a job is given: looked at before anything is queued."""

from pathlib import Path

from omegaconf import DictConfig

from mvdiff.errors import InputError
from mvdiff.shard import ShardIndex, verify


def check_shards(data: DictConfig) -> ShardIndex:
    """Refuse shards that a job could not read; makes ``data.path`` absolute, for the job runs elsewhere.

    Raises:
        InputError: nothing there, not shards of ours, or a row that fails its checksum.
    """
    path = Path(data.path).expanduser().absolute()
    data.path = str(path)
    index = ShardIndex.scan(path)
    if data.verify:
        bad = verify(path).bad
        if bad:
            more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise InputError(f"{bad[0]}{more}", f"make the shard again; mvdiff verify {path} lists all that is bad")
    return index
