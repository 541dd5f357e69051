"""Which of a model's weights a run trains."""

from mvdiff.model import adapter
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.settings import ModelSettings
from mvdiff.train.settings import TrainSettings


def prepare(model: MultiViewModel, settings: TrainSettings) -> None:
    """Freeze what ``settings.trainable`` leaves as it is; a LoRA is added and starts as no change."""
    if settings.trainable == "freeze_encoder":
        model.unet.down_blocks.requires_grad_(False)
    elif settings.trainable == "lora":
        adapter.add(model.unet, settings.lora_rank, settings.lora_alpha, settings.seed)


def needs_origin(settings: TrainSettings, model_settings: ModelSettings) -> bool:
    """Whether a restart needs the weights that the run began with.

    A checkpoint holds a UNet with its LoRA merged, and no text encoder: neither is what such a run goes on from.
    """
    return settings.trainable == "lora" or model_settings.prompt == "token"
