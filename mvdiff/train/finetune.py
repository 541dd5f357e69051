"""Which of a model's weights a run trains."""

from torch import nn

from mvdiff.model import adapter
from mvdiff.model.multiview import MultiViewModel
from mvdiff.train.settings import TrainSettings


def prepare(model: MultiViewModel, settings: TrainSettings) -> None:
    """Freeze what ``settings.trainable`` leaves as it is; a LoRA is added and starts as no change."""
    if settings.trainable == "freeze_encoder":
        encoder(model).requires_grad_(False)
    elif settings.trainable == "lora":
        adapter.add(model.unet, settings.lora_rank, settings.lora_alpha, settings.seed)


def encoder(model: MultiViewModel) -> nn.Module:
    """The half of the UNet that looks at its input: what it knows is the first to be lost."""
    return model.unet.down_blocks
