"""`mvdiff verify`: every byte of shards, results and checkpoints against its checksum."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.job import Context, JobFailed
from jobs.runfolder import Run
from mvdiff.errors import InputError, counted, one_line
from mvdiff.generate.audit import Audit, audit
from mvdiff.generate.plan import find_sets
from mvdiff.shard import ShardReader, find_shards, verify_shards
from mvdiff.train import checkpoint

ARRAY = False
_TOLD = 10


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
    """Name each bad row and file, and what is missing of results, on standard output."""
    path = Path(config.path)
    bad = missing = 0
    checkpoints = checkpoint.find_checkpoints(path)
    for one in checkpoints:
        for problem in checkpoint.verify(one):
            print(f"{one}: {problem}", flush=True)
            bad += 1
    sets = find_sets(path)
    for folder in sets:
        found = told(folder, audit(folder))
        bad += sum(len(one.bad) or 1 for one in found.flawed)
        missing += len(found.missing)
    shards = [shard for shard in _shards(path) if not any(folder in shard.parents for folder in sets)]
    if shards:
        report = verify_shards(shards, f"verify {path}")
        for row in report.bad:
            print(row, flush=True)
        bad += len(report.bad)
        print(f"{counted(report.shards, 'shard')}, {report.bytes / 1e6:.1f} MB read", flush=True)
    if checkpoints:
        print(f"{counted(len(checkpoints), 'checkpoint')} read", flush=True)
    if bad or missing:
        again = f", {counted(missing, 'sample')} missing: mvdiff verify {path} --repair makes them" if missing else ""
        raise JobFailed(f"bad rows or files: {bad} in {path}{again}")
    return "done"


def told(folder: Path, found: Audit) -> Audit:
    """``found`` in the result set ``folder``, once it is said on standard output."""
    for one in found.flawed:
        for row in one.bad:
            print(row, flush=True)
        if not one.bad:
            print(f"{one.path} lacks {counted(len(one.lost), 'sample')} that did not fail", flush=True)
    for sample_id in found.missing[:_TOLD]:
        print(one_line(f"{folder}: missing: {sample_id[:200]!r}"), flush=True)
    if len(found.missing) > _TOLD:
        print(f"{folder}: and {len(found.missing) - _TOLD} more", flush=True)
    print(
        f"{folder}: {found.good} of {counted(found.samples, 'sample')} good, {len(found.quarantined)} quarantined, "
        f"{len(found.missing)} missing; {counted(found.files, 'file')}, {found.bytes / 1e6:.1f} MB read",
        flush=True,
    )
    return found


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """How much was read."""
    path = Path(config.path)
    rows = sum(len(ShardReader(shard)) for shard in _shards(path))
    return {"good": rows, "bad": 0, "checkpoints": len(checkpoint.find_checkpoints(path))}


def _shards(path: Path) -> list[Path]:
    """The shards at ``path``; where there are none, checkpoints and empty result sets will do."""
    try:
        return find_shards(path)
    except InputError:
        if checkpoint.find_checkpoints(path) or find_sets(path):
            return []
        raise
