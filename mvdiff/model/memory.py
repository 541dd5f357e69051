"""How much GPU memory a model needs, found without weights and without a GPU: its work is played on meta tensors."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvdiff.errors import InputError
from mvdiff.model.build import unfitted
from mvdiff.model.emulation import Emulation
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.noise import SampleNoise
from mvdiff.model.pipeline import PRECISIONS, MultiViewPipeline, lower
from mvdiff.model.sampler import Sampling, sample
from mvdiff.model.settings import RANDOM, ModelSettings
from mvdiff.rig import VIEWS

META = torch.device("meta")
GIB = 2**30

_STEP = 512
"""Bytes to a multiple of which CUDA's allocator rounds."""
_LARGE, _PAGE, _KEPT = 10 * 2**20, 2 * 2**20, 2**20
"""From 10 MiB on it fetches a tensor's memory in pages of 2 MiB, and cuts off a rest only if it exceeds 1 MiB."""
_WORKSPACE = 64 * 2**20
"""What cuBLAS and cuBLASLt take for themselves on a Hopper GPU; less on others."""


class Tracker(TorchDispatchMode):
    """Counts the bytes of every tensor on ``device`` that is made while it is entered, until its storage is gone."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.live = 0
        """Bytes alive now."""
        self.peak = 0
        """Most bytes alive at once since ``restart``."""
        self._device = device.type
        self._sizes: dict[int, int] = {}

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``func`` and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device:
                self._count(tensor.untyped_storage())
        if func in _CONVOLUTIONS:
            self.peak = max(self.peak, self.live + _scratch(args, out))
        return out

    def _count(self, storage: Any) -> None:
        key = id(storage)
        if key in self._sizes:
            return
        self._sizes[key] = _block(storage.nbytes())
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


def _scratch(args: tuple[Any, ...], out: Any) -> int:
    """Bytes in which cuDNN turns a convolution's input and output to channels-last, the layout its kernels take."""
    made = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
    return args[0].nbytes + (made[0].nbytes if made else 0)


def _block(size: int) -> int:
    """Bytes that CUDA's allocator counts for a tensor of ``size`` bytes in memory freshly fetched."""
    size = -(-size // _STEP) * _STEP
    rest = -size % _PAGE
    return size + rest if size >= _LARGE and rest <= _KEPT else size


def played(settings: ModelSettings) -> ModelSettings:
    """``settings`` for a model whose weights do not matter: the published architecture where they name a folder."""
    if settings.new is not None:
        return settings
    if settings.prompt == "token":
        raise InputError(
            "model.prompt=token keeps a text encoder, whose memory is not estimated",
            "ask with model.prompt=text, and add 1.3 GiB",
        )
    return replace(settings, pretrained=RANDOM, mapping="order")


def empty_model(settings: ModelSettings) -> MultiViewModel:
    """The model of ``settings`` on the meta device; to be called inside an ``Emulation``.

    Plain Stable Diffusion has no vision encoder: its settings name no rig that its weights know.
    """
    settings = played(settings)
    with META:
        model = unfitted(settings)
    if settings.new is None and settings.pretrained_rig is None:
        model.vision_encoder = None
    return model


def random_model(settings: ModelSettings, device: torch.device) -> MultiViewModel:
    """The model of ``settings`` on ``device`` with random weights, drawn there: of use for measurements alone."""
    with Emulation():
        model = empty_model(settings)
    model.to_empty(device=device)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.02)
        for buffer in model.buffers():
            buffer.fill_(0.5)  # 0 where it holds positions
    return model


def parameters(model: MultiViewModel) -> dict[str, int]:
    """Numbers in each component of ``model``, what is trained and what is not."""
    parts = {"UNet": model.unet, "VAE": model.vae, "vision encoder": model.vision_encoder}
    parts |= {"camera": model.camera, "context": model.context}
    return {name: _numbers(part) for name, part in parts.items() if part is not None}


def _numbers(part: nn.Module) -> int:
    return sum(one.numel() for one in (*part.parameters(), *part.buffers()))


def on_meta(work: Callable[[Tracker, Emulation], None]) -> int:
    """Bytes at the peak of ``work``, which is given the tracker and the emulation that surround it."""
    tracker, emulation = Tracker(META), Emulation()
    with tracker, emulation:
        work(tracker, emulation)
    return tracker.peak + _WORKSPACE


@dataclass(frozen=True)
class Measurement:
    """What a GPU counted while something ran on it."""

    allocated: int
    """Bytes of tensors at their most."""
    reserved: int
    """Bytes that torch had taken from the GPU at its most: tensors, and gaps between them."""


def measured(work: Callable[[], None], device: torch.device) -> Measurement:
    """What ``device`` counts while ``work`` runs."""
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return Measurement(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))


@dataclass(frozen=True)
class Generation:
    """One call of the sampler."""

    samples: int
    mixed_precision: str
    guidance: float
    """1: none."""


def sampling_peak(settings: ModelSettings, asked: Generation) -> int:
    """Bytes at the peak of generating as ``asked``; a step takes the same however many there are.

    But for the unconditional reference: of it one row is played, and eight steps' are made at once, or compiled those
    of as many as there are samples, and kept. Eight are a hundredth more in a call of 16 samples.
    """

    def work(tracker: Tracker, emulation: Emulation) -> None:
        model = empty_model(settings).eval()
        dtype = PRECISIONS[asked.mixed_precision]
        lower(model, dtype)
        # in the product they are lowered before anything else is there
        tracker.restart()
        pictures, glance = (
            torch.empty(asked.samples, side, side, 3, dtype=torch.uint8, device=META)
            for side in (model.sight.condition_size, model.sight.glance_size)
        )
        cameras = torch.empty(asked.samples, VIEWS, 4, device=META)
        noise = SampleNoise(range(asked.samples), META)
        with torch.no_grad(), emulation.autocast(dtype, cache=False):
            latents = sample(model, pictures, glance, cameras, noise, _OneStep("ddim", 1, asked.guidance))
            model.space.decode(latents)

    return on_meta(work)


class _OneStep(Sampling):
    """Sampling of one step whose scheduler computes nothing: diffusers' look up numbers that meta tensors lack."""

    def scheduler(self, model: MultiViewModel) -> Any:
        return SimpleNamespace(
            init_noise_sigma=1.0,
            timesteps=torch.ones(1),
            scale_model_input=lambda latents, step: latents,
            step=lambda v, step, latents: SimpleNamespace(prev_sample=latents - v),
        )


def measured_sampling(settings: ModelSettings, asked: Generation, device: torch.device) -> Measurement:
    """What the GPU ``device`` counts while a model with random weights generates as ``asked``, in two steps."""
    model = random_model(settings, device)
    lower(model, PRECISIONS[asked.mixed_precision])
    pipeline = MultiViewPipeline(model, device, asked.mixed_precision)
    dark = np.zeros((asked.samples, settings.size, settings.size, 3), np.uint8)

    def generate() -> None:
        pipeline(dark, range(asked.samples), steps=2, guidance=asked.guidance)

    return measured(generate, device)
