"""Compiled training: the network made ready for passes of a whole micro-batch before the first step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._functorch import config as functorch

from mvdiff.model.compilation import TRAINING, Compilation, CompileCache, compiled, refuse_compiling
from mvdiff.model.layers import gate_by_halves, norm_by_channel
from mvdiff.model.pipeline import PRECISIONS
from mvdiff.model.space import KLSpace
from mvdiff.train.memory import random_batch, run_pass
from mvdiff.train.settings import TrainSettings
from mvdiff.train.state import TrainingState
from mvdiff.train.world import Group


def compile_training(
    state: TrainingState, settings: TrainSettings, group: Group, tell: Callable[[str], None]
) -> Compilation:
    """Compile ``state.model`` by passes of noise, one of each size that a step has.

    They change nothing but the gradients, and those are forgotten.

    Of several ranks of a node one compiles, the others find its work in a cache; ``tell`` hears if that must be waited
    for. Raises ``InputError`` where this machine cannot compile.
    """
    device = group.device
    refuse_compiling(device, "train.compile")
    model, dtype = state.model, PRECISIONS[settings.mixed_precision]
    frozen = [model.vae.encoder] if isinstance(model.space, KLSpace) else []
    if model.vision_encoder is not None:
        frozen.append(model.vision_encoder)
    share, size = settings.share(group.world_size), settings.pass_size(group.world_size)
    # a step's last pass may be of fewer samples
    sizes = sorted({size, share % size} - {0})
    compiling: dict[str, Any] = {"fullgraph": True, "dynamic": False, "options": TRAINING}
    facts = {
        "training": {"trainable": settings.trainable, "checkpointing": settings.gradient_checkpointing},
        "model": model.settings.written(), "batch": sizes, "dtype": str(dtype),
    }  # fmt: skip

    def work() -> None:
        state.lay_channels_last()
        norm_by_channel(*frozen)
        gate_by_halves(model.unet)
        for module in frozen:
            module.compile(**compiling)
        model.both_passes = _traced_as(torch.compile(model.both_passes, **compiling))
        for samples in sizes:
            # a graph of another size writes where this one's left them
            state.forget_gradients()
            batch = random_batch(model, samples, device)
            run_pass(state, batch, lambda: torch.autocast(device.type, dtype, enabled=dtype is not None))
        if size < share:
            state.keep_gradients()
        else:
            state.forget_gradients()

    return compiled(CompileCache.of(device, facts), work, tell)


def _traced_as(passes: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``passes``, compiled at its first call with arguments of a new shape, under settings that ``options`` lack."""

    def run(*arguments: Any) -> Tensor:
        with (
            # views that are kept for the way back are written as convolutions like it, attention's inputs among them
            functorch.patch(recompute_views=True),
            # what checkpointed layers leave for a views' pass of its own they would leave again, the same
            dynamo.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True),
        ):
            return passes(*arguments)

    return run
