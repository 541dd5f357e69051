"""`mvdiff generate`: six views for every sample of a data set, each once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from jobs.compose import settings, stood_in
from jobs.job import Context, JobFailed, Writes, tell_unused_gpus
from jobs.preflight import Findings
from jobs.runfolder import Run
from jobs.shards import check_coming, check_readable, tell_left_out
from mvdiff.errors import InputError, counted
from mvdiff.generate.asked import Asked
from mvdiff.generate.hosts import bad_hosts
from mvdiff.generate.ledger import Ledger, read_ledger
from mvdiff.generate.mended import mended
from mvdiff.generate.owner import Owner
from mvdiff.generate.plan import Plan, make_plan
from mvdiff.generate.selection import choose, listed
from mvdiff.generate.settings import GenerateSettings, Recipe, reference_views
from mvdiff.generate.starts import refuse_futile
from mvdiff.generate.status import Status, status
from mvdiff.loading import loading
from mvdiff.model.index import ends_in_noise, stored_settings, stored_timesteps
from mvdiff.rig import VIEWS, rig
from mvdiff.shard import ShardIndex
from mvdiff.shard.codec import filters
from mvdiff.train.checkpoint import CheckpointStore, checkpoint_hash, verify
from mvdiff.train.position import best_checkpoint

ARRAY = True
SEVERAL = True
CLAIMS_WORK = True
COUNTS_STARTS = True
_DAY_S = 86_400
_PACKED = 0.28
"""Of its raw size what a picture takes whose background is noise, compressed as results are; a black one takes less."""


@dataclass(frozen=True)
class _Inputs:
    """The samples that a configuration asks for."""

    config: DictConfig
    index: ShardIndex
    positions: Sequence[int]
    """Theirs in ``index``."""
    unknown: list[str]
    """Ids asked for that are in no shard that can be read."""


_checked: _Inputs | None = None
"""What ``check`` read last: reading it takes long, and `prepare` must not find other data than was checked."""


def check(config: DictConfig, run: Run | None) -> None:
    """A good checkpoint, and shards taken with its rig."""
    global _checked
    assert run is not None
    findings = Findings()
    found = findings.look(lambda: _checkpoint(config, run))
    if found is None:
        findings.look(lambda: _checked_settings(stood_in(config)))
        if config.data.path is not None:
            findings.look(partial(_inputs, config))
        findings.refuse()
    config.checkpoint = str(found)
    model = stored_settings(Path(config.checkpoint))
    for key in ("sampler", "steps", "guidance"):
        if config.generate[key] is None:
            config.generate[key] = getattr(model, key)
    chosen, views = _checked_settings(config)
    timesteps = stored_timesteps(Path(config.checkpoint))
    if not 1 <= config.generate.steps <= timesteps:
        raise InputError(f"generate.steps={config.generate.steps} does not fit", f"give 1 to {timesteps}")
    if chosen.sampler != "ddim" and ends_in_noise(Path(config.checkpoint)):
        raise InputError(
            f"generate.sampler={chosen.sampler} divides by the signal, and this model starts with none",
            "choose generate.sampler=ddim for a model whose schedule ends in pure noise",
        )
    model.refuse_turned_tile(max(views) > 0, f"generate.reference_view={max(views)}")
    if config.data.path is None:
        _refuse_unplanned(config, run)
        return
    _checked = _inputs(config)
    index = _checked.index
    if index.rig != model.rig:
        raise InputError(
            f"{config.data.path} was taken with the rig {rig(index.rig).described}, the checkpoint makes views of "
            f"{model.cameras.described}",
            "give data of that rig, or a checkpoint trained on this one",
        )
    if index.single and any(views):
        raise InputError(
            f"generate.reference_view={max(views)} is not known of single pictures",
            "leave generate.reference_view at 0",
        )
    tell_left_out(index, _checked.unknown)


def writes(config: DictConfig, run: Run) -> Writes | None:
    """The views of all samples that were checked."""
    if _checked is None or config.checkpoint in (None, "best", "newest"):
        return None
    side = stored_settings(Path(config.checkpoint)).size
    size = len(_checked.positions) * len(reference_views(config.generate.reference_view)) * VIEWS * 3 * side**2
    return Writes(int(_PACKED * size), "what is generated", certain=False)


def check_ahead(config: DictConfig, run: Run, coming: Sequence[Path]) -> None:
    """Settings, and what is there of checkpoint and shards."""
    asked = stood_in(config)
    _checked_settings(asked)
    if config.checkpoint not in (None, "best", "newest"):
        given = Path(config.checkpoint).expanduser().absolute()
        if not any(given.is_relative_to(folder) for folder in coming):
            _checkpoint(asked, run)
    elif run.checkpoints not in coming:
        _checkpoint(asked, run)
    check_coming(config.data, coming)


def _checked_settings(config: DictConfig) -> tuple[GenerateSettings, tuple[int, ...]]:
    """The settings of the first reference view, and all of these views, as ``config`` then lists them."""
    views = reference_views(config.generate.reference_view)
    config.generate.reference_view = views[0] if len(views) == 1 else list(views)
    chosen = _settings(config, views[0])
    filters(chosen.codec)
    if chosen.threads > config.cluster.cpus_per_task:
        raise InputError(
            f"generate.threads={chosen.threads} is more than cluster.cpus_per_task={config.cluster.cpus_per_task}",
            f"say cluster.cpus_per_task={chosen.threads}, or generate.threads={config.cluster.cpus_per_task}",
        )
    if config.limit is not None and (not isinstance(config.limit, int) or config.limit < 1):
        raise InputError(f"limit={config.limit} is no number of samples", "give 1 or more, or null")
    return chosen, views


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Plan what is missing, and what failed only because its shard was damaged then."""
    assert run is not None
    plans = [Plan.load(folder) for folder in _folders(config, run)] if config.data.path is None else _plans(config, run)
    if any(plan.unpublished() for plan in plans):
        return None
    now = [status(plan.folder) for plan in plans]
    if not all(one.finished for one in now):
        return None
    quarantined = sum(one.quarantined for one in now)
    left_out = f", {quarantined} quarantined" if quarantined else ""
    return (
        f"all is done, {sum(one.done for one in now)} of {counted(sum(one.samples for one in now), 'sample')}{left_out}"
    )


def _refuse_unplanned(config: DictConfig, run: Run) -> None:
    for folder in _folders(config, run):
        if not Plan.is_there(folder):
            raise InputError(f"data=null, and nothing is planned in {folder}", "give data=PATH, what to make views of")


def _plans(config: DictConfig, run: Run) -> list[Plan]:
    inputs = _checked if _checked and _checked.config is config else _inputs(config)
    plans = []
    for recipe in _recipes(config):
        plan = make_plan(
            run.results,
            inputs.index,
            recipe,
            slice_size=config.generate.slice,
            codec=config.generate.codec,
            asked=inputs.positions,
            retry=lambda plan: mended(plan, inputs.index),
        )
        Asked.remember(plan.folder, Path(config.checkpoint), Path(config.data.path), inputs.index.unreadable)
        plans.append(plan)
    return plans


def useful_workers(config: DictConfig, run: Run) -> int:
    """One for each slice that is not published."""
    return max(1, sum(Plan.load(folder).unpublished() for folder in _folders(config, run)))


def unfinished(config: DictConfig, run: Run) -> str | None:
    """How many samples are neither made nor quarantined."""
    now = [status(folder) for folder in _folders(config, run)]
    left = sum(one.samples - one.done - one.quarantined for one in now)
    return f"left {left} of {counted(sum(one.samples for one in now), 'sample')} undone" if left else None


def bad_nodes(config: DictConfig, run: Run) -> dict[str, str]:
    """Nodes that failed where others did not, within the last day: somebody may have mended those before."""
    found: dict[str, str] = {}
    for folder in _folders(config, run):
        found |= bad_hosts(read_ledger(folder), _DAY_S)
    return found


def work(config: DictConfig, context: Context) -> str:
    """One worker."""
    assert context.run and context.events
    recipes = _recipes(config)
    if not any(Plan.load(context.run.results / recipe.set_id).unpublished() for recipe in recipes):
        print("everything was published while this worker waited in the queue", flush=True)
        return "done"
    refuse_futile(context.events.read())

    with loading():
        import torch

        from mvdiff.generate.worker import run_worker
        from mvdiff.model.pipeline import MultiViewPipeline

    tell_unused_gpus(config, context.place)
    torch.set_num_threads(config.generate.threads)
    print(f"views by {config.checkpoint}", flush=True)
    name, node = f"{context.place.job_id}-{context.worker}", context.place.node
    try:
        pipeline = MultiViewPipeline.from_pretrained(
            Path(config.checkpoint),
            "cuda" if torch.cuda.is_available() else "cpu",
            config.generate.mixed_precision,
            compiling=config.generate.compile,
        )
        if config.generate.compile:
            tell = partial(print, flush=True)
            made = pipeline.compile(recipes[0].batch, recipes[0].sampler, recipes[0].guidance, tell)
            tell(f"compiled: {made}")
            context.events.write("compiled", graphs=made.graphs, cached=made.cached, seconds=round(made.seconds, 3))
    except Exception as error:
        reason = f"the model does not load: {type(error).__name__}: {error}"
        Ledger(context.run.results / recipes[0].set_id, Owner.here(name, node)).gave_up(reason)
        raise

    def sampler(recipe: Recipe) -> Callable[[NDArray[np.uint8], list[int]], NDArray[np.uint8]]:
        def sample(images: NDArray[np.uint8], seeds: list[int]) -> NDArray[np.uint8]:
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

        return sample

    for recipe in recipes:
        ended = run_worker(
            context.run.results / recipe.set_id,
            sampler(recipe),
            name,
            context.should_stop,
            settings=_settings(config, recipe.reference_view),
            events=context.events,
            host=node,
            only_host=context.place.kind != "slurm",
            time_left=context.time_left,
        )
        if ended == "stopped":
            return ended
    return "done"


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """How many samples there are, where, and what was left out."""
    assert run is not None
    folders = _folders(config, run)
    now = [status(folder) for folder in folders]
    _refuse_none_done(now)
    asked = Asked.load(folders[0])
    views = reference_views(config.generate.reference_view)
    where = {f"results_of_view_{view}": str(folder) for view, folder in zip(views, folders, strict=True)}
    return {
        "checkpoint": config.checkpoint,
        **({"results": str(folders[0])} if len(folders) == 1 else where),
        "samples": sum(one.done for one in now),
        "quarantined": sum(one.quarantined for one in now),
        "unreadable_shards": len(asked.unreadable) if asked else 0,
    }


def _refuse_none_done(now: Sequence[Status]) -> None:
    samples = sum(one.samples for one in now)
    if samples and not any(one.done for one in now):
        why = next((reason for one in now for reason in one.reasons.values()), "")
        raise JobFailed(f"all of {samples} samples are quarantined, the last with: {why}")


def _inputs(config: DictConfig) -> _Inputs:
    names = {key: _names(config, key) for key in ("shards", "ids")}
    index = check_readable(config.data, names["shards"])
    return _Inputs(config, index, *choose(index, names["ids"], config.limit))


def _names(config: DictConfig, key: str) -> list[str] | None:
    """What ``config.ids`` or ``config.shards`` lists: a string as ``listed`` reads it, or a list in a YAML file."""
    value = config[key]
    return None if value is None else listed(value, key) if isinstance(value, str) else [str(name) for name in value]


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


def _settings(config: DictConfig, view: int) -> GenerateSettings:
    """The settings of the result set whose input is that view."""
    return settings(GenerateSettings, {**config.generate, "reference_view": view}, "generate")


def _recipes(config: DictConfig) -> list[Recipe]:
    """One for each reference view that is asked for."""
    checkpoint = Path(config.checkpoint)
    model, hash_ = stored_settings(checkpoint), checkpoint_hash(checkpoint)
    return [
        Recipe.of(_settings(config, view), checkpoint=hash_, rig=model.rig, size=model.size)
        for view in reference_views(config.generate.reference_view)
    ]


def _folders(config: DictConfig, run: Run) -> list[Path]:
    """Their result sets."""
    return [run.results / recipe.set_id for recipe in _recipes(config)]


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
