"""`mvdiff train`: fine-tune the multi-view model on shards."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.compose import settings
from jobs.job import Context
from jobs.runfolder import Run
from jobs.shards import check_shards
from mvdiff.errors import InputError
from mvdiff.model.pretrained import find
from mvdiff.model.settings import ModelSettings
from mvdiff.shard import ShardDataset
from mvdiff.train.checkpoint import MANIFEST, CheckpointStore, step_of, verify
from mvdiff.train.fitness import needs_origin, refuse_misfit, refuse_unfit
from mvdiff.train.record import describe, refuse_another
from mvdiff.train.settings import TrainSettings
from slurm.rendezvous import meet

ARRAY = False


def check(config: DictConfig, run: Run | None) -> None:
    """Settings, shards, and that the run is not training already."""
    assert run is not None
    training = settings(TrainSettings, config.train, "train")
    model = settings(ModelSettings, config.model, "model")
    newest = CheckpointStore(run.checkpoints).newest_good()
    if model.starts_from_weights:
        try:
            config.model.pretrained = str(_whole(find(config.model.pretrained)))
        except InputError:
            # a run whose checkpoints hold all that it goes on from outlives the weights it began with
            if newest is None or needs_origin(training, model):
                raise
        model = settings(ModelSettings, config.model, "model")
    refuse_unfit(training, model)
    cluster = config.cluster
    training.share(cluster.nodes * (cluster.tasks_per_node or max(cluster.gpus_per_node, 1)))
    check_shards(config.data)
    if all((Path(config.data.path) / split).is_dir() for split in ("train", "heldout")):
        raise InputError(
            f"{config.data.path} holds the held-out samples too, which would be trained on",
            f"give data={config.data.path}/train",
        )
    data = Path(config.data.path)
    dataset = ShardDataset(data)
    refuse_misfit(model, dataset, data)
    asked = describe(training, model, dataset, newest)
    if newest is not None:
        refuse_another(newest, asked)
    for folder in run.jobs():
        if folder.job == "train" and folder.is_alive():
            raise InputError(
                f"run {run.name} is being trained already, by job {folder.path.name}",
                "wait for it, or choose another run=",
            )


def _whole(weights: Path) -> Path:
    """``weights``, with every byte as it was written where they are a checkpoint of this program."""
    if (weights / MANIFEST).is_file() and (problems := verify(weights)):
        raise InputError(f"checkpoint {weights} is damaged ({problems[0]})", "give another checkpoint")
    return weights


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Whether the last step has been reached before."""
    assert run is not None
    newest = CheckpointStore(run.checkpoints).newest_good()
    if newest is None or step_of(newest) < config.train.steps:
        return None
    return f"already done, {newest.name} holds the last of {config.train.steps} steps"


def work(config: DictConfig, context: Context) -> str:
    """One rank of the training job."""
    from mvdiff.train.trainer import train
    from mvdiff.train.world import World

    assert context.run and context.folder and context.events
    place = context.place
    met = meet(context.folder.logs, place)
    return train(
        settings(TrainSettings, config.train, "train"),
        settings(ModelSettings, config.model, "model"),
        Path(config.data.path),
        context.run.checkpoints,
        context.events,
        lambda line: print(f"{time.strftime('%H:%M:%S')} {line}", flush=True),
        World(place.rank, place.world_size, place.local_rank, met.address, met.port, met.listener),
        context.should_stop,
    )


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """The newest checkpoint."""
    assert run is not None
    newest = CheckpointStore(run.checkpoints).newest_good()
    return {"checkpoint": str(newest)}
