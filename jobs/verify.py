"""`mvdiff verify`: every byte of shards or results against its checksum."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.job import Context, JobFailed
from jobs.runfolder import Run
from mvdiff.errors import InputError
from mvdiff.shard import ShardReader, find_shards, verify

ARRAY = False


def check(config: DictConfig, run: Run | None) -> None:
    """That there is something to read."""
    path = Path(config.path).expanduser().absolute()
    config.path = str(path)
    if not path.exists():
        raise InputError(f"{path} does not exist", "give a shard, or a folder of shards or results")


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Always something to do: what was good yesterday may have rotted."""
    return None


def work(config: DictConfig, context: Context) -> str:
    """Name each bad row on standard output."""
    report = verify(Path(config.path))
    for row in report.bad:
        print(row, flush=True)
    print(f"{report.shards} shards, {report.bytes / 1e6:.1f} MB read", flush=True)
    if report.bad:
        raise JobFailed(f"{len(report.bad)} bad rows in {config.path}")
    return "done"


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """How much was read."""
    return {"good": sum(len(ShardReader(shard)) for shard in find_shards(Path(config.path))), "bad": 0}
