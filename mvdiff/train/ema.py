"""The exponential moving average of a model's weights: what is published and generated with."""

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """Keeps in ``model`` the moving average of another model's parameters.

    Buffers are taken to be constant in training and are left as they are in ``model``.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model: Model = model.eval().requires_grad_(False)
        self.decay = decay
        self._averages: list[Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the parameters of ``model`` after optimizer step ``step`` (from 0).

        The decay rises as (1 + step) / (10 + step) up to its final value, as in TensorFlow's
        ExponentialMovingAverage, so that a short run does not average in its random start.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        weights: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(self._averages, weights, 1 - decay)
