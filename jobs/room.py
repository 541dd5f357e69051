"""Room for what a job writes, on its run's disk, and for what it computes, on the site's GPUs."""

import math
import shutil
from pathlib import Path

from omegaconf import DictConfig

from jobs.compose import settings
from jobs.job import Job, Writes, writes
from jobs.runfolder import Run
from mvdiff.errors import InputError
from mvdiff.generate.settings import GenerateSettings
from mvdiff.model.gpu import GIB, card
from mvdiff.model.index import stored_settings
from mvdiff.model.settings import ModelSettings
from mvdiff.train.settings import TrainSettings
from slurm.cluster import Cluster

_GB = 1e9


def refuse_full(module: Job, config: DictConfig, run: Run) -> None:
    """Refuse a job for whose next file the disk has certainly no room.

    Raises:
        InputError: less is free than it takes.
    """
    coming = writes(module, config, run)
    if coming and coming.certain and _free(run) < coming.size:
        raise InputError(
            f"{run.path} has {_free(run) / _GB:.1f} GB free, and {coming.what} takes {coming.size / _GB:.1f} GB",
            "make room (mvdiff clean lists leftovers), or choose another runs= folder",
        )


def tightness(module: Job, config: DictConfig, run: Run) -> str | None:
    """The line that says that what a job writes may not find room; None where it will."""
    coming = writes(module, config, run)
    if coming is None or coming.certain or _free(run) >= coming.size:
        return None
    return (
        f"{coming.what} may take {coming.size / _GB:.1f} GB, and {_free(run) / _GB:.1f} GB are free: a full disk is "
        "waited for, for some minutes"
    )


def _free(run: Run) -> int:
    place = run.path
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def next_checkpoint(config: DictConfig, newest: Path | None) -> Writes | None:
    """What a training writes next: as much as before, or for every number in the UNet's weights four of four bytes
    (the weight, its average, AdamW's two moments)."""
    if newest is not None:
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        return Writes(size, "a checkpoint of this run", certain=True)
    if config.train.trainable != "full" or not config.model.get("pretrained"):
        return None
    from mvdiff.model.pretrained.weightfile import WeightFile

    files = Path(config.model.pretrained).glob("unet/*.safetensors")
    tensors = [stored for file in files for stored in WeightFile.read(file).tensors.values()]
    return Writes(16 * sum(math.prod(stored.shape) for stored in tensors), "a checkpoint", certain=True)


def refuse_too_large(job: str, config: DictConfig, cluster: Cluster) -> None:
    """Refuse what the memory of one of the site's GPUs (``cluster.card``) cannot hold; takes some ten seconds.

    Raises:
        InputError: the estimate is above what tensors can have of the card.
    """
    if cluster.kind != "slurm" or not cluster.gpus_per_node or cluster.card is None or not config.check_memory:
        return
    has = card(cluster.card)
    needed, mend = _training(config, cluster, has.room) if job == "train" else _generation(config)
    if needed > has.room:
        raise InputError(
            f"{job} takes some {needed / GIB:.1f} GiB of a GPU, and one of this site has room for {has.room / GIB:.1f}",
            f"{mend} (mvdiff doctor tells more), or say check_memory=false to try all the same",
        )


def _training(config: DictConfig, cluster: Cluster, room: int) -> tuple[int, str]:
    from mvdiff.train.memory import footprint

    training = settings(TrainSettings, config.train, "train")
    ranks = cluster.nodes * cluster.tasks
    micro = training.pass_size(ranks)
    model = settings(ModelSettings, config.model, "model")
    peak = footprint(training, model, micro, gradients_stay=training.gradients_stay(ranks, micro)).peak
    if peak > room and micro > 1 and footprint(training, model, 1, gradients_stay=True).peak <= room:
        return peak, f"give train.micro_batch less than {micro}"
    return peak, less_memory(training.mixed_precision, training.gradient_checkpointing, training.trainable)


def less_memory(mixed_precision: str, gradient_checkpointing: bool, trainable: str) -> str:
    """What to try next for a training that does not fit with a sample at once."""
    if mixed_precision == "no":
        return "try train.mixed_precision=bf16"
    if not gradient_checkpointing:
        return "try train.gradient_checkpointing=true"
    if trainable != "lora":
        return "try train.trainable=lora"
    return "nothing else takes less, it needs a larger card"


def _generation(config: DictConfig) -> tuple[int, str]:
    from mvdiff.model.memory import Generation, sampling_peak

    model = stored_settings(Path(config.checkpoint))
    asked = settings(GenerateSettings, {**config.generate, "reference_view": 0}, "generate")
    peak = sampling_peak(model, Generation(asked.batch, asked.mixed_precision, asked.guidance))
    return peak, f"give generate.batch less than {asked.batch}"
