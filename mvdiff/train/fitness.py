"""Whether settings, model and data fit each other, told before anything is queued. Imports no torch."""

from mvdiff.errors import InputError
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import rig
from mvdiff.shard import ShardDataset, ShardReader
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources


def refuse_misfit(model_settings: ModelSettings, sources: Sources) -> None:
    """Raise an ``InputError`` if any of ``sources`` is not of the rig and picture size the model is made for.

    Every sample's own cameras are looked at, not only the name of the rig that a shard bears.
    """
    rig_of_model = f"set model.rig='{sources.training.rig}', or give data of the model's rig"
    _refuse_misfit(model_settings, sources.training, rig_of_model, "set model.size, or pack the data at")
    for key, dataset in (("validation", sources.validation), ("prior", sources.prior)):
        if dataset is not None:
            _refuse_misfit(model_settings, dataset, f"give {key}= shards of the model's rig", f"pack {key}= at")


def _refuse_misfit(model_settings: ModelSettings, dataset: ShardDataset, mend_rig: str, mend_size: str) -> None:
    dataset.index.refuse_single()
    cameras, shards = model_settings.cameras, dataset.index.shards
    # All shards of a data set have one rig and size: the first stands for them.
    if dataset.rig != cameras.text:
        raise InputError(
            f"{shards[0]} was taken with the rig {rig(dataset.rig).described}, the model makes {cameras.described}",
            mend_rig,
        )
    for shard in shards:
        with ShardReader(shard) as reader:
            ids, azimuths, elevations = reader.ids(), *reader.directions()
        for sample_id, azimuth, elevation in zip(ids, azimuths, elevations, strict=True):
            if difference := cameras.differs(azimuth, elevation):
                raise InputError(
                    f"sample {sample_id} of {shard} was not taken with {cameras.described}: {difference}",
                    "pack these samples with their own rig",
                )
    if dataset.size != model_settings.size:
        raise InputError(
            f"{shards[0]} holds pictures of {dataset.size} pixels, the model takes {model_settings.size}",
            f"{mend_size} the model's size",
        )


def refuse_unfit(settings: TrainSettings, model_settings: ModelSettings, sources: Sources) -> None:
    """Raise an ``InputError`` where the model cannot be trained as asked on ``sources``."""
    if settings.trainable == "lora" and not model_settings.starts_from_weights:
        raise InputError(
            "train.trainable=lora adapts weights, and this model starts from none", "give model.pretrained=FOLDER"
        )
    timesteps = 1000 if model_settings.new is None else model_settings.new.timesteps
    if settings.validation.steps is not None and settings.validation.steps > timesteps:
        raise InputError(
            f"train.validation.steps={settings.validation.steps} does not fit", f"give 1 to {timesteps}, or null"
        )
    if settings.augment.flip and model_settings.cameras.flip_order() is None:
        raise InputError(
            f"train.augment.flip={settings.augment.flip} mirrors samples, but {model_settings.cameras.described} "
            "is not its own mirror image",
            "set train.augment.flip=0",
        )
    if settings.prior_share and sources.prior is None:
        raise InputError(
            f"train.prior_share={settings.prior_share} is of a second data set, and none is given",
            "give prior=SHARDS, or set train.prior_share=0",
        )
    if sources.prior is not None and not settings.prior_share:
        raise InputError(
            "prior= is given, and train.prior_share=0 takes nothing from it",
            "set train.prior_share, or leave prior= out",
        )
    model_settings.refuse_turned_tile(settings.reference_view == "random", "train.reference_view=random")


def needs_origin(settings: TrainSettings, model_settings: ModelSettings) -> bool:
    """Whether a restart needs the weights that the run began with.

    A checkpoint holds a UNet with its LoRA merged, and no text encoder: neither is what such a run goes on from.
    """
    return settings.trainable == "lora" or model_settings.prompt == "token"
