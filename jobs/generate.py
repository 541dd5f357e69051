"""`mvdiff generate`: six views for every sample of a data set, each once."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from jobs.compose import settings
from jobs.job import Context, JobFailed
from jobs.runfolder import Run
from jobs.shards import check_shards
from mvdiff.errors import InputError
from mvdiff.generate.plan import Plan, make_plan
from mvdiff.generate.settings import GenerateSettings, Recipe
from mvdiff.generate.status import status
from mvdiff.model.index import ends_in_noise, stored_settings, stored_timesteps
from mvdiff.rig import rig
from mvdiff.shard.codec import filters
from mvdiff.train.checkpoint import CheckpointStore, checkpoint_hash, verify
from mvdiff.train.position import best_checkpoint

ARRAY = True


def check(config: DictConfig, run: Run | None) -> None:
    """A good checkpoint, and shards taken with its rig."""
    assert run is not None
    config.checkpoint = str(_checkpoint(config, run))
    model = stored_settings(Path(config.checkpoint))
    for key in ("sampler", "steps", "guidance"):
        if config.generate[key] is None:
            config.generate[key] = getattr(model, key)
    chosen = settings(GenerateSettings, config.generate, "generate")
    filters(chosen.codec)
    timesteps = stored_timesteps(Path(config.checkpoint))
    if not 1 <= config.generate.steps <= timesteps:
        raise InputError(f"generate.steps={config.generate.steps} does not fit", f"give 1 to {timesteps}")
    if chosen.sampler != "ddim" and ends_in_noise(Path(config.checkpoint)):
        raise InputError(
            f"generate.sampler={chosen.sampler} divides by the signal, and this model starts with none",
            "choose generate.sampler=ddim for a model whose schedule ends in pure noise",
        )
    model.refuse_turned_tile(chosen.reference_view > 0, f"generate.reference_view={chosen.reference_view}")
    if config.limit is not None and (not isinstance(config.limit, int) or config.limit < 1):
        raise InputError(f"limit={config.limit} is no number of samples", "give 1 or more, or null")
    index = check_shards(config.data)
    if index.rig != model.rig:
        raise InputError(
            f"{config.data.path} was taken with the rig {rig(index.rig).described}, the checkpoint makes views of "
            f"{model.cameras.described}",
            "give data of that rig, or a checkpoint trained on this one",
        )


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Plan what is missing."""
    assert run is not None
    recipe = _recipe(config)
    plan = make_plan(
        run.results,
        Path(config.data.path),
        recipe,
        slice_size=config.generate.slice,
        codec=config.generate.codec,
        limit=config.limit,
    )
    now = status(plan.folder)
    if not now.finished:
        return None
    left_out = f", {now.quarantined} quarantined" if now.quarantined else ""
    return f"all is done, {now.done} of {now.samples} samples{left_out}"


def useful_workers(config: DictConfig, run: Run) -> int:
    """One for each slice that is not published."""
    plan = Plan.load(run.results / _recipe(config).set_id)
    return max(1, len(plan) - len(plan.published()))


def work(config: DictConfig, context: Context) -> str:
    """One worker."""
    import torch

    from mvdiff.generate.worker import run_worker
    from mvdiff.model.pipeline import MultiViewPipeline

    assert context.run and context.events
    torch.set_num_threads(config.cluster.cpus_per_task)
    print(f"views by {config.checkpoint}", flush=True)
    pipeline = MultiViewPipeline.from_pretrained(
        Path(config.checkpoint), "cuda" if torch.cuda.is_available() else "cpu", config.generate.mixed_precision
    )
    recipe = _recipe(config)

    def sampler(images: NDArray[np.uint8], seeds: list[int]) -> NDArray[np.uint8]:
        return pipeline(
            images,
            seeds,
            recipe.steps,
            recipe.guidance,
            reference_view=recipe.reference_view,
            sampler=recipe.sampler,
            guidance_rescale=recipe.guidance_rescale,
            guidance_interval=recipe.guidance_interval,
        )

    return run_worker(
        context.run.results / recipe.set_id,
        sampler,
        f"{context.place.job_id}-{context.worker}",
        context.should_stop,
        settings=settings(GenerateSettings, config.generate, "generate"),
        events=context.events,
    )


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """How many samples there are, and where."""
    assert run is not None
    folder = run.results / _recipe(config).set_id
    now = status(folder)
    if now.samples and not now.done:
        why = next(iter(now.reasons.values()), "")
        raise JobFailed(f"all of {now.samples} samples are quarantined, the last with: {why}")
    return {
        "checkpoint": config.checkpoint,
        "results": str(folder),
        "samples": now.done,
        "quarantined": now.quarantined,
    }


def _checkpoint(config: DictConfig, run: Run) -> Path:
    if config.checkpoint in (None, "best", "newest"):
        config.checkpoint = str(_of_run(config.checkpoint, run))
    path = Path(config.checkpoint).expanduser().absolute()
    if not path.is_dir():
        raise InputError(f"checkpoint {path} does not exist", "give best, newest, or the folder of a checkpoint")
    problems = verify(path)
    if problems:
        raise InputError(
            f"{path} is no good checkpoint ({problems[0]})",
            "give checkpoint=runs/NAME/checkpoints/step-..., one that mvdiff verify calls good",
        )
    return path


def _recipe(config: DictConfig) -> Recipe:
    checkpoint = Path(config.checkpoint)
    model = stored_settings(checkpoint)
    return Recipe.of(
        settings(GenerateSettings, config.generate, "generate"),
        checkpoint=checkpoint_hash(checkpoint),
        rig=model.rig,
        size=model.size,
    )


def _of_run(which: str | None, run: Run) -> Path:
    """The best or the newest checkpoint of the run, as it is: an older one's pictures are not what was asked for."""
    store = CheckpointStore(run.checkpoints)
    if not store.steps():
        raise InputError(
            f"run {run.name} has no checkpoint in {run.checkpoints}",
            f"train it first (mvdiff train run={run.name} data=...), or give checkpoint=FOLDER",
        )
    best = best_checkpoint(store, run.validation) if which != "newest" else None
    if which == "best" and best is None:
        raise InputError(
            f"run {run.name} was not validated: none of its checkpoints is known to be the best",
            "say checkpoint=newest, or train with held-out samples",
        )
    return best or store.path(store.steps()[-1])
