"""`mvdiff verify`: every byte of shards, results and checkpoints against its checksum."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.job import Context, JobFailed
from jobs.runfolder import Run
from mvdiff.errors import InputError
from mvdiff.shard import ShardReader, find_shards, verify
from mvdiff.train import checkpoint

ARRAY = False


def check(config: DictConfig, run: Run | None) -> None:
    """That there is something to read."""
    path = Path(config.path).expanduser().absolute()
    config.path = str(path)
    if not path.exists():
        raise InputError(f"{path} does not exist", "give a shard, a checkpoint, or a folder of shards, results or runs")


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Always something to do: what was good yesterday may have rotted."""
    return None


def work(config: DictConfig, context: Context) -> str:
    """Name each bad row and file on standard output."""
    path = Path(config.path)
    bad = 0
    checkpoints = checkpoint.find_checkpoints(path)
    for one in checkpoints:
        for problem in checkpoint.verify(one):
            print(f"{one}: {problem}", flush=True)
            bad += 1
    if _shards(path):
        report = verify(path)
        for row in report.bad:
            print(row, flush=True)
        bad += len(report.bad)
        print(f"{report.shards} shards, {report.bytes / 1e6:.1f} MB read", flush=True)
    if checkpoints:
        print(f"{len(checkpoints)} checkpoints read", flush=True)
    if bad:
        raise JobFailed(f"{bad} bad rows and files in {config.path}")
    return "done"


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """How much was read."""
    path = Path(config.path)
    rows = sum(len(ShardReader(shard)) for shard in _shards(path))
    return {"good": rows, "bad": 0, "checkpoints": len(checkpoint.find_checkpoints(path))}


def _shards(path: Path) -> list[Path]:
    """The shards at ``path``; where there are none, checkpoints will do."""
    try:
        return find_shards(path)
    except InputError:
        if checkpoint.find_checkpoints(path):
            return []
        raise
