"""Whether settings, model and data fit each other, told before anything is queued. Imports no torch."""

from pathlib import Path

from mvdiff.errors import InputError
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import rig
from mvdiff.shard import ShardDataset, ShardReader
from mvdiff.train.settings import TrainSettings


def refuse_misfit(model_settings: ModelSettings, dataset: ShardDataset, data: Path) -> None:
    """Raise an ``InputError`` if the shards at ``data`` are not of the rig and picture size the model is made for.

    Every sample's own cameras are looked at, not only the name of the rig that a shard bears.
    """
    cameras = model_settings.cameras
    if dataset.rig != cameras.text:
        raise InputError(
            f"{data} was taken with the rig {rig(dataset.rig).described}, the model makes {cameras.described}",
            f"set model.rig='{dataset.rig}', or give data of the model's rig",
        )
    for shard in dataset.index.shards:
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
            f"{data} holds pictures of {dataset.size} pixels, the model takes {model_settings.size}",
            "set model.size, or pack the data at the model's size",
        )


def refuse_unfit(settings: TrainSettings, model_settings: ModelSettings) -> None:
    """Raise an ``InputError`` where the model cannot be trained as asked."""
    if settings.trainable == "lora" and not model_settings.starts_from_weights:
        raise InputError(
            "train.trainable=lora adapts weights, and this model starts from none", "give model.pretrained=FOLDER"
        )
    model_settings.refuse_turned_tile(settings.reference_view == "random", "train.reference_view=random")


def needs_origin(settings: TrainSettings, model_settings: ModelSettings) -> bool:
    """Whether a restart needs the weights that the run began with.

    A checkpoint holds a UNet with its LoRA merged, and no text encoder: neither is what such a run goes on from.
    """
    return settings.trainable == "lora" or model_settings.prompt == "token"
