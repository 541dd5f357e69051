"""Which of a model's weights a run trains."""

from mvdiff.model import adapter
from mvdiff.model.multiview import MultiViewModel
from mvdiff.train.settings import TrainSettings


def prepare(model: MultiViewModel, settings: TrainSettings) -> None:
    """Freeze what ``settings.trainable`` leaves as it is; a LoRA is added and starts as no change."""
    if settings.trainable == "freeze_encoder":
        model.unet.down_blocks.requires_grad_(False)
    elif settings.trainable == "lora":
        adapter.add(model.unet, settings.lora_rank, settings.lora_alpha, settings.seed)
