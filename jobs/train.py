"""`mvdiff train`: fine-tune the multi-view model on shards."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.compose import settings
from jobs.job import Context, Writes, tell_unused_gpus
from jobs.preflight import Findings
from jobs.room import next_checkpoint
from jobs.runfolder import Run
from jobs.shards import check_coming, check_shards
from mvdiff.errors import InputError
from mvdiff.events import read_events
from mvdiff.loading import loading
from mvdiff.model.pretrained import find
from mvdiff.model.settings import ModelSettings
from mvdiff.shard import ShardDataset
from mvdiff.train.attempts import refuse_futile
from mvdiff.train.checkpoint import MANIFEST, CheckpointStore, step_of, verify
from mvdiff.train.fitness import needs_origin, refuse_misfit, refuse_unfit
from mvdiff.train.pace import measured
from mvdiff.train.position import Position, best_checkpoint, read_history
from mvdiff.train.record import describe, refuse_another
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources
from slurm.cluster import Cluster
from slurm.rendezvous import meet

ARRAY = False
SEVERAL = True
COUNTS_STARTS = True


def check(config: DictConfig, run: Run | None) -> None:
    """Settings, shards, and that the run is not training already."""
    assert run is not None
    settle(config, run)
    _refuse_twice(run)


def check_ahead(config: DictConfig, run: Run, coming: Sequence[Path]) -> None:
    """Settings, weights, those shards that are there, and that the run is not training already."""
    model = settings(ModelSettings, config.model, "model")
    settings(TrainSettings, config.train, "train").share(_ranks(config))
    if model.starts_from_weights and not any(
        Path(config.model.pretrained).expanduser().absolute().is_relative_to(folder) for folder in coming
    ):
        config.model.pretrained = str(_whole(find(config.model.pretrained)))
    check_coming(config.data, coming)
    _refuse_twice(run)


def writes(config: DictConfig, run: Run) -> Writes | None:
    """The next checkpoint."""
    store = CheckpointStore(run.checkpoints)
    steps = store.steps()
    return next_checkpoint(config, store.path(steps[-1]) if steps else None)


def settle(config: DictConfig, run: Run) -> None:
    """Settings and shards; what ``check`` looks at, but for other jobs of the run."""
    findings = Findings()
    newest = CheckpointStore(run.checkpoints).newest_good()
    training = findings.look(partial(settings, TrainSettings, config.train, "train"))
    model = findings.look(lambda: _model(config, training, newest))
    if training is None:
        findings.look(partial(check_shards, config.data))
        findings.refuse()
    assert training is not None
    findings.look(partial(training.share, _ranks(config)))
    sources = findings.look(partial(_checked_sources, config, run, training))
    findings.refuse()
    assert model is not None
    assert sources is not None
    refuse_unfit(training, model, sources)
    refuse_misfit(model, sources)
    training = training.sized(len(sources.training))
    asked = describe(training, model, sources, newest)
    if newest is not None:
        refuse_another(newest, asked)


def _model(config: DictConfig, training: TrainSettings | None, newest: Path | None) -> ModelSettings:
    """Its settings, and the weights it starts from found, which ``config`` names by their path then."""
    model = settings(ModelSettings, config.model, "model")
    if model.starts_from_weights:
        try:
            config.model.pretrained = str(_whole(find(config.model.pretrained)))
        except InputError:
            # a run whose checkpoints hold all that it goes on from outlives the weights it began with
            if newest is None or training is None or needs_origin(training, model):
                raise
        model = settings(ModelSettings, config.model, "model")
    return model


def _ranks(config: DictConfig) -> int:
    cluster = settings(Cluster, config.cluster, "cluster")
    return cluster.nodes * cluster.tasks


def _refuse_twice(run: Run) -> None:
    for folder in run.jobs():
        if folder.job == "train" and folder.is_alive():
            raise InputError(
                f"run {run.name} is being trained already, by job {folder.path.name}",
                "wait for it, or choose another run=",
            )


def _checked_sources(config: DictConfig, run: Run, training: TrainSettings) -> Sources:
    """The data sets, every row of them read; their paths in ``config`` become absolute."""
    index = check_shards(config.data)
    if {"train", "heldout"} <= {shard.parent.name for shard in index.shards}:
        raise InputError(
            f"{config.data.path} holds the held-out samples too, which would be trained on",
            "give data= the folder shards/train alone",
        )
    heldout = run.shards / "heldout"
    if config.validation is None and training.validation.every and heldout.is_dir():
        config.validation = str(heldout)
    for key in ("validation", "prior"):
        if config[key] is not None:
            of_data = DictConfig({"path": config[key], "verify": config.data.verify})
            check_shards(of_data)
            config[key] = of_data.path
    sources = _sources(config)
    if sources.validation is not None:
        held_out = set(sources.validation.recordings)
        for path, learnt in ((config.data.path, sources.training), (config.prior, sources.prior)):
            shared = sorted(held_out & set(learnt.recordings)) if learnt is not None else []
            if shared:
                raise InputError(
                    f"recording {shared[0]} is in {config.validation} and in {path}: "
                    "validation would praise what was learnt by heart",
                    "give validation= shards of other recordings, or train.validation.every=0",
                )
    return sources


def _sources(config: DictConfig) -> Sources:
    validation, prior = (config[key] and Path(config[key]) for key in ("validation", "prior"))
    return Sources.open(Path(config.data.path), validation, prior)


def _whole(weights: Path) -> Path:
    """``weights``, with every byte as it was written where they are a checkpoint of this program."""
    if (weights / MANIFEST).is_file() and (problems := verify(weights)):
        raise InputError(f"checkpoint {weights} is damaged ({problems[0]})", "give another checkpoint")
    return weights


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Whether there is nothing left to train."""
    assert run is not None
    newest = CheckpointStore(run.checkpoints).newest_good()
    if newest is None:
        return None
    training = settings(TrainSettings, config.train, "train").sized(len(ShardDataset(Path(config.data.path))))
    step = step_of(newest)
    position = Position(step, read_history(newest, run.validation))
    if config.validation is not None and position.validation_is_due(training):
        return None
    reason = position.ended(training)
    return reason and f"already done, {reason}: {newest.name}"


def warning_s(config: DictConfig, run: Run | None) -> float | None:
    """Seconds that this run needs between a warning and its end, as its jobs so far have measured."""
    assert run is not None
    pace = measured(folder.events for folder in run.jobs() if folder.job == "train")
    return None if pace is None else pace.needed()


def work(config: DictConfig, context: Context) -> str:
    """One rank of the training job."""
    assert context.run and context.folder and context.events
    place, run = context.place, context.run
    if place.first:
        # before torch: a node on which it cannot be imported must not try for ever
        refuse_futile(read_events(context.folder.events))

    with loading():
        from mvdiff.train.trainer import Folders, train
        from mvdiff.train.world import World

    tell_unused_gpus(config, place)
    met = meet(context.folder.logs, place)
    return train(
        settings(TrainSettings, config.train, "train"),
        settings(ModelSettings, config.model, "model"),
        _sources(config),
        Folders(run.checkpoints, run.validation, run.board),
        context.events,
        lambda line: print(f"{time.strftime('%H:%M:%S')} {line}", flush=True),
        World(place.rank, place.world_size, place.local_rank, met.address, met.port, met.listener),
        context.should_stop,
        context.time_left,
    )


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """The newest checkpoint, and the best one where validation has found it."""
    assert run is not None
    store = CheckpointStore(run.checkpoints)
    best = best_checkpoint(store, run.validation)
    return {"checkpoint": str(store.newest_good())} | ({"best_checkpoint": str(best)} if best else {})
