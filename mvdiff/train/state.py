"""The state of training: everything that a step changes, in memory and in a checkpoint folder."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mvdiff.durable import write_json
from mvdiff.model.multiview import MultiViewModel
from mvdiff.train import record
from mvdiff.train.checkpoint import TRAINING
from mvdiff.train.ema import Ema
from mvdiff.train.schedule import learning_rate
from mvdiff.train.settings import TrainSettings


class TrainingState:
    """Weights, their moving average, AdamW's moments, and the number of steps taken.

    There is no random state: every draw is a pure function of its place in the run (``draw.py``).
    """

    def __init__(self, averaged: MultiViewModel, settings: TrainSettings, device: torch.device) -> None:
        for component in averaged.components().values():
            # diffusers notes the folder it loaded from and would store it: a restart must not show in a checkpoint
            component.register_to_config(_name_or_path="")
        self.model = copy.deepcopy(averaged).train().to(device)
        self.ema = Ema(averaged.to(device), self.model, settings.ema_decay)
        self.step = 0
        self._settings = settings
        self.trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def advance(self) -> None:
        """One optimizer step with the gradients that the weights hold, which are then gone."""
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.step, self._settings)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.step)
        self.step += 1

    def write(self, folder: Path, content: record.Record, boundary: Callable[[str], None]) -> None:
        """Write the checkpoint's content into ``folder``: the averaged model, and beside it what resuming needs."""
        self.ema.model.save_pretrained(folder)
        boundary("model written")
        (folder / TRAINING).mkdir()
        write_json(folder / record.FILE, content)
        write_json(folder / TRAINING / "position.json", {"step": self.step})
        boundary("position written")
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in self.trained.items()},
            folder / TRAINING / "weights.safetensors",
        )
        boundary("weights written")
        save_file(self._moments(), folder / TRAINING / "optimizer.safetensors")

    @classmethod
    def read(cls, folder: Path, settings: TrainSettings, device: torch.device) -> Self:
        """The state that ``write`` put into ``folder``, bit for bit."""
        state = cls(MultiViewModel.from_pretrained(folder), settings, device)
        weights = load_file(folder / TRAINING / "weights.safetensors")
        with torch.no_grad():
            for name, weight in state.trained.items():
                weight.copy_(weights[name])
        state._take_moments(load_file(folder / TRAINING / "optimizer.safetensors"))
        state.step = json.loads((folder / TRAINING / "position.json").read_text())["step"]
        return state

    def _moments(self) -> dict[str, Tensor]:
        """AdamW's state as {``exp_avg/unet.conv_in.weight``: tensor}; empty before the first step."""
        return {
            f"{kind}/{name}": tensor.detach().cpu().contiguous()
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
