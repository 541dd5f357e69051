"""Floating-point operations, counted on meta tensors: what the arithmetic takes, not what a kernel does twice."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mvdiff.model.emulation import Emulation
from mvdiff.model.memory import META, empty_model
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.noise import SampleNoise
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import VIEWS
from mvdiff.train import finetune
from mvdiff.train.memory import random_batch
from mvdiff.train.settings import TrainSettings


class _Written(Emulation):
    """An emulation whose attention is two matrix products, which the counter sees, its backward pass four."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """As in ``Emulation``."""
        if func is functional.scaled_dot_product_attention:
            query, key, value = args
            return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1) @ value
        return super().__torch_function__(func, types, args, kwargs)


def counted(work: Callable[[], Any]) -> float:
    """TFLOP of ``work``, as torch's ``FlopCounterMode`` counts it: matrix products, convolutions, attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def of_generation(settings: ModelSettings, samples: int) -> dict[str, float]:
    """TFLOP of each part of a guided sampling call of ``samples``.

    ``condition`` once a call, where the reference is clean, else once a step; ``views`` twice a guided step;
    ``unconditional`` is shared by all samples, and by all calls of a pipeline that keeps it.
    """
    with _Written(), torch.no_grad():
        model = empty_model(settings).eval()
        sight = model.sight
        pictures, glance = (
            torch.zeros(samples, side, side, 3, dtype=torch.uint8, device=META)
            for side in (sight.condition_size, sight.glance_size)
        )
        noise, blanks = SampleNoise(range(samples), META), SampleNoise([0], META)
        shapes = model.noise_shapes
        drawn = {name: noise.draw(name, shape) for name, shape in shapes.items()}
        blank_drawn = {name: blanks.draw(name, shape) for name, shape in shapes.items()}
        timestep = torch.zeros(samples, dtype=torch.int64, device=META)
        cameras = torch.zeros(samples, VIEWS, 4, device=META)
        kept = torch.zeros(samples, dtype=torch.bool, device=META)
        refer = lambda: model.refer(pictures, glance, drawn.get("reference_posterior"))  # noqa: E731
        blank = model.blank(blank_drawn.get("reference_posterior"))
        reference = refer()
        condition = model.condition(reference, blank, timestep, drawn.get("reference"), kept)
        return {
            "encode": counted(refer),
            "condition": counted(lambda: model.condition(reference, blank, timestep, drawn.get("reference"), kept)),
            "unconditional": counted(lambda: model.unconditional(blank, timestep[:1], blank_drawn.get("reference"))),
            "views": counted(lambda: model.predict_v(drawn["views"], timestep, cameras, condition)),
            "decode": counted(lambda: model.space.decode(drawn["views"])),
        }


def of_training(settings: TrainSettings, model_settings: ModelSettings, samples: int) -> dict[str, float]:
    """TFLOP of each part of a training pass of ``samples``: ``encode``, ``forward``, ``backward``.

    The forward pass counts once, also where checkpointing runs it twice.
    """
    with _Written():
        model: MultiViewModel = empty_model(model_settings)
        finetune.prepare(model, settings)
        model.train()
        batch = random_batch(model, samples, META)
        seen = model.encoded(batch)
        losses: list[Tensor] = []
        return {
            "encode": counted(lambda: model.encoded(batch)),
            "forward": counted(lambda: losses.append(model.loss(batch, seen))),
            "backward": counted(lambda: losses.pop().sum().backward()),
        }
