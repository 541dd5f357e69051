"""The exponential moving average of a model's weights: what is published and generated with."""

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """Keeps in ``model`` the moving average of what is trained of ``source``, a model of the same shape.

    Buffers and frozen parameters are constant in training and are left as they are in ``model``.
    """

    def __init__(self, model: Model, source: nn.Module, decay: float) -> None:
        self.decay = decay
        pairs = zip(model.named_parameters(), source.parameters(), strict=True)
        trained = [(name, average, weight) for (name, average), weight in pairs if weight.requires_grad]
        self.averages: dict[str, Tensor] = {name: average for name, average, _ in trained}
        """The averaged parameters by name."""
        self._weights: list[Tensor] = [weight for _, _, weight in trained]
        self.model: Model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters of the source after optimizer step ``step`` (from 0).

        The decay rises as (1 + step) / (10 + step) up to its final value, as in TensorFlow's
        ExponentialMovingAverage, so that a short run does not average in its random start.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), self._weights, 1 - decay)
