"""Compiled training: the network made ready for passes of a whole micro-batch before the first step."""

from collections.abc import Callable

import torch

from mvdiff.model.compilation import (
    Compilation,
    CompileCache,
    compile_in_place,
    compiled,
    norm_by_channel,
    refuse_compiling,
)
from mvdiff.model.pipeline import PRECISIONS
from mvdiff.model.space import KLSpace
from mvdiff.train.memory import random_batch, run_pass
from mvdiff.train.settings import TrainSettings
from mvdiff.train.state import TrainingState


def compile_training(
    state: TrainingState, settings: TrainSettings, device: torch.device, tell: Callable[[str], None]
) -> Compilation:
    """Compile ``state.model`` by a pass of noise, which changes nothing but the gradients, and those are forgotten.

    Of several ranks of a node one compiles, the others find its work in a cache; ``tell`` hears if that must be waited
    for. Raises ``InputError`` where this machine cannot compile.
    """
    refuse_compiling(device, "train.compile")
    model, dtype = state.model, PRECISIONS[settings.mixed_precision]
    encoder = [model.vae.encoder] if isinstance(model.space, KLSpace) else []
    facts = {
        "training": {"trainable": settings.trainable, "checkpointing": settings.gradient_checkpointing},
        "model": model.settings.written(), "batch": settings.micro_batch, "dtype": str(dtype),
    }  # fmt: skip

    def work() -> None:
        norm_by_channel(*encoder)
        compile_in_place(model.unet, *encoder)
        batch = random_batch(model, settings.micro_batch, device)
        run_pass(state, batch, lambda: torch.autocast(device.type, dtype, enabled=dtype is not None))
        state.optimizer.zero_grad()

    return compiled(CompileCache.of(device, facts), work, tell)
