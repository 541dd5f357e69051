"""The state of training: everything that a step changes, in memory and in a checkpoint folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import get_total_norm

from mvdiff.model.build import create
from mvdiff.model.folder import load
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.settings import ModelSettings
from mvdiff.train import finetune
from mvdiff.train.ema import Ema
from mvdiff.train.fitness import needs_origin
from mvdiff.train.position import read_step
from mvdiff.train.schedule import learning_rate
from mvdiff.train.settings import TrainSettings
from mvdiff.train.snapshot import AVERAGES, OPTIMIZER, WEIGHTS, Live, Snapshot

_BESIDE = 1e-6
"""What torch (``clip_grad_norm_``) adds to a norm before it divides by it."""


class TrainingState:
    """Weights, their moving average, AdamW's moments, and the number of steps taken.

    There is no random state: every draw is a pure function of its place in the run (``draw.py``).
    """

    def __init__(self, averaged: MultiViewModel, settings: TrainSettings, device: torch.device) -> None:
        finetune.prepare(averaged, settings)
        averaged.to(device)
        self.model = averaged.twin().train()
        if settings.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        self.ema = Ema(averaged, self.model, settings.ema_decay)
        self.step = 0
        self._settings = settings
        self._kept: list[Parameter] = []
        self.trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def clip(self, most: float) -> Tensor:
        """Let the next step scale the gradients down to the norm ``most`` where theirs, which is returned, is larger.

        Float [] on the device: nothing waits for it, and AdamW scales as it reads them.
        """
        norm = get_total_norm([weight.grad for weight in self.trained.values() if weight.grad is not None])
        self.optimizer.grad_scale = ((norm + _BESIDE) / most).clamp(min=1)  # type: ignore[attr-defined]
        return norm

    def advance(self) -> None:
        """One optimizer step with the gradients that the weights hold, clipped, which are then gone."""
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.step, self._settings)
        self.optimizer.step()
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.forget_gradients()
        self.ema.update(self.step)
        self.step += 1

    def lay_channels_last(self) -> None:
        """Let the trained weights of convolutions, and all that is kept of them, lie as compiled passes take them.

        Their gradients come so: otherwise each would be turned, and each weight too in every pass.
        """
        for name, weight in self.trained.items():
            for one in (weight, self.ema.averages[name], *self.optimizer.state.get(weight, {}).values()):
                if one.ndim == 4:
                    one.data = one.data.contiguous(memory_format=torch.channels_last)

    def keep_gradients(self) -> None:
        """From now on each weight that has a gradient keeps memory of its own for it, where passes add up theirs.

        Otherwise it takes the memory in which a step's first pass leaves its gradient, and the next pass through a CUDA
        graph writes there again.
        """
        self._kept = [weight for weight in self.trained.values() if weight.grad is not None]
        for weight in self._kept:
            weight.grad = None
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Make ready for the next step's."""
        self.optimizer.zero_grad(set_to_none=not self._kept)
        for weight in self._kept:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def snapshot(self) -> Snapshot:
        """Room in host memory for this state, not filled yet."""
        live = Live(self.ema.model, self.ema.averages, self.trained, self._moments)
        return Snapshot(live, apart=needs_origin(self._settings, self.model.settings))

    @classmethod
    def read(cls, folder: Path, settings: TrainSettings, model_settings: ModelSettings, device: torch.device) -> Self:
        """The state of which a ``Snapshot`` was written into ``folder``, bit for bit."""
        model = load(folder)
        if needs_origin(settings, model_settings):
            model = _from_origin(model_settings, model, settings.seed)
        state = cls(model, settings, device)
        _load(state.trained, folder / WEIGHTS)
        if (folder / AVERAGES).exists():
            _load(state.ema.averages, folder / AVERAGES)
        state._take_moments(load_file(folder / OPTIMIZER))
        state.step = read_step(folder)
        return state

    def _moments(self) -> dict[str, Tensor]:
        """AdamW's state as {``exp_avg/unet.conv_in.weight``: tensor}; empty before the first step."""
        return {
            f"{kind}/{name}": tensor
            for name, weight in self.trained.items()
            for kind, tensor in self.optimizer.state[weight].items()
        }

    def _take_moments(self, moments: dict[str, Tensor]) -> None:
        numbers = {name: number for number, name in enumerate(self.trained)}
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in moments.items():
            kind, name = key.split("/", 1)
            state.setdefault(numbers[name], {})[kind] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _from_origin(settings: ModelSettings, stored: MultiViewModel, seed: int) -> MultiViewModel:
    """The model that the run began with, but for what is trained, which is about to be loaded."""
    dark = np.zeros((1, 1, 8, 8, 3), np.uint8)
    model = create(settings, dark, seed)
    model.placement = stored.placement
    return model


@torch.no_grad()
def _load(weights: Mapping[str, Tensor], file: Path) -> None:
    stored = load_file(file)
    for name, weight in weights.items():
        weight.copy_(stored[name])
