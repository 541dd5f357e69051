"""`mvdiff synth`: procedural mice as shards."""

from typing import Any

from omegaconf import DictConfig

from jobs.compose import part
from jobs.job import Context
from jobs.runfolder import Run
from mvdiff.mouse.colony import Colony, plan, remaining, synthesise

ARRAY = True


def check(config: DictConfig, run: Run | None) -> None:
    """Settings, and that no other data lies in the run."""
    assert run is not None
    remaining(run.shards, part(Colony, config))


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Whether every shard is there."""
    assert run is not None
    if remaining(run.shards, part(Colony, config)):
        return None
    return f"all {config.samples} samples are there"


def useful_workers(config: DictConfig, run: Run) -> int:
    """One for each shard."""
    return len(plan(part(Colony, config)))


def work(config: DictConfig, context: Context) -> str:
    """One worker's shards."""
    assert context.run
    done = synthesise(
        context.run.shards,
        part(Colony, config),
        worker=context.worker,
        workers=context.workers,
        should_stop=context.should_stop,
    )
    return "stopped" if done.left else "done"


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """Where the shards are."""
    assert run is not None
    return {"shards": str(run.shards), "samples": config.samples}
