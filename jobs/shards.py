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
        bad = verify(path)
        if bad:
            first = bad[0]
            more = f" and {len(bad) - 1} more rows" if len(bad) > 1 else ""
            raise InputError(
                f"{first.path} row {first.row} ({first.sample_id}): {first.why}{more}",
                f"make the shard again; mvdiff verify {path} lists every bad row",
            )
    return index
