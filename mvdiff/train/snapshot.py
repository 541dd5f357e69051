"""The state of training in host memory, where a thread can write it to disk while training goes on."""

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mvdiff.durable import write_json, write_text
from mvdiff.model.folder import save
from mvdiff.model.multiview import MultiViewModel
from mvdiff.train import modelcard, record
from mvdiff.train.checkpoint import TRAINING
from mvdiff.train.position import write_position

WEIGHTS = f"{TRAINING}/weights.safetensors"
AVERAGES = f"{TRAINING}/averages.safetensors"
"""Only where the published weights are not the averages themselves (``fitness.needs_origin``)."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's that are as large as the weights."""
OPTIMIZER = f"{TRAINING}/optimizer.safetensors"


@dataclass(frozen=True)
class Live:
    """What a step changes, where it is changed."""

    averaged: MultiViewModel
    averages: Mapping[str, Tensor]
    """Those of its parameters that change, by name."""
    weights: Mapping[str, Tensor]
    """What is trained, by name."""
    moments: Callable[[], Mapping[str, Tensor]]
    """AdamW's state as {``exp_avg/unet.conv_in.weight``: tensor}; empty before the first step."""


class Snapshot:
    """Host copies of ``Live``, made once and filled again by every ``take``.

    On a GPU they are pinned, so that filling them runs at the speed of the bus. Pinning takes seconds for each 10 GB: a
    thread does it behind the first steps. What never changes is copied once, or shared where it is in host memory
    already.
    """

    def __init__(self, live: Live, apart: bool) -> None:
        """``apart``: the averages are written by themselves too."""
        self._live, self._apart = live, apart
        changing = {id(tensor): name for name, tensor in live.averages.items()}
        self._model, self._twins = _on_host(live.averaged, changing)
        self._averages: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._moments: dict[str, Tensor] = {}
        self.step = 0
        """The step that the copy is of."""
        self._history: list[dict[str, Any]] = []
        self._taken: tuple[str, ...] = ()
        self._failure: Exception | None = None
        self._pinning = threading.Thread(target=self._make_room, name="snapshot", daemon=True)
        self._pinning.start()

    def _make_room(self) -> None:
        """In a thread of its own: host memory for all that is known to be copied."""
        try:
            for name, tensor in self._live.averages.items():
                self._averages[name] = self._twins[name].data = _room(tensor)
            for name, tensor in self._live.weights.items():
                self._weights[name] = _room(tensor)
                for kind in _MOMENTS:
                    self._moments[f"{kind}/{name}"] = _room(tensor)
        except Exception as error:
            self._failure = error

    def ready(self) -> None:
        """Return when there is room; raises what kept memory from being had for it."""
        self._pinning.join()
        if self._failure is not None:
            raise self._failure

    @torch.no_grad()
    def take(self, step: int, history: list[dict[str, Any]]) -> None:
        """Copy the state as it is after ``step`` steps; training may go on when this returns.

        ``history`` is what validation has found, as plain values.

        Nothing may be writing the copy before. Raises what kept memory from being had for it.
        """
        self.ready()
        moments = self._live.moments()
        for name in moments.keys() - self._moments.keys():
            self._moments[name] = _room(moments[name])
        for held, now in (
            (self._averages, self._live.averages),
            (self._weights, self._live.weights),
            (self._moments, moments),
        ):
            for name, tensor in now.items():
                held[name].copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in self._live.weights.values()):
            torch.cuda.synchronize()
        self.step, self._history, self._taken = step, history, tuple(moments)

    def write(self, folder: Path, content: record.Record, loss: float | None, boundary: Callable[[str], None]) -> None:
        """Write the checkpoint's content into ``folder``: the averaged model, and beside it what resuming needs.

        ``loss`` is that of the last step. ``boundary`` is called with a name after each part.
        """
        save(self._model, folder)
        write_text(folder / modelcard.FILE, modelcard.model_card(self._model, content, self.step, loss))
        boundary("model written")
        (folder / TRAINING).mkdir()
        write_json(folder / record.FILE, content)
        write_position(folder, self.step, self._history)
        boundary("position written")
        save_file(self._weights, folder / WEIGHTS)
        boundary("weights written")
        if self._apart:
            save_file(self._averages, folder / AVERAGES)
            boundary("averages written")
        # room is there before the first step makes them
        save_file({name: self._moments[name] for name in self._taken}, folder / OPTIMIZER)


def _room(tensor: Tensor) -> Tensor:
    """Host memory for a copy of ``tensor``."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def _on_host(model: MultiViewModel, changing: Mapping[int, str]) -> tuple[MultiViewModel, dict[str, Tensor]]:
    """A twin of ``model`` in host memory, and its changing parameters by name, which wait for memory to be given them.

    ``changing``: which parameters those are, name by id.
    """
    kept: dict[int, object] = {}
    twins: dict[str, Tensor] = {}
    for parameter in model.parameters():
        name = changing.get(id(parameter))
        held = torch.empty(0, dtype=parameter.dtype) if name is not None else parameter.detach().cpu()
        twin = torch.nn.Parameter(held, requires_grad=False)
        kept[id(parameter)] = twin
        if name is not None:
            twins[name] = twin
    kept |= {id(buffer): buffer.cpu() for buffer in model.buffers()}
    return copy.deepcopy(model, kept), twins
