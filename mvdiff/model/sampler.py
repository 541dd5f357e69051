"""The sampler: from noise to the latents of six views, with any of diffusers' schedulers."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from mvdiff.errors import InputError
from mvdiff.model.multiview import Condition, MultiViewModel
from mvdiff.model.noise import SampleNoise, blank_noise


class _Ancestral(EulerAncestralDiscreteScheduler):
    """Euler's method for v, given its noise: diffusers' own would draw it and wait for the GPU at every step."""

    def step(self, v: Tensor, step: Tensor, latents: Tensor, noise: Tensor) -> Any:  # type: ignore[override]
        """As in diffusers, and bit for bit the same; ``noise`` is of the latents' shape."""
        here: Any = self.step_index
        sigma, after = self.sigmas[here], self.sigmas[here + 1]
        up = (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5
        down = (after**2 - up**2) ** 0.5
        clean = v * (-sigma / (sigma**2 + 1) ** 0.5) + latents / (sigma**2 + 1)
        self._step_index = here + 1
        return SimpleNamespace(prev_sample=latents + (latents - clean) / sigma * (down - sigma) + noise * up)


SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
    "euler_ancestral": (_Ancestral, {}),
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
}
"""Song et al. 2020; Karras et al. 2022's Euler with ancestral noise; Lu et al. 2022; Zhao et al. 2023."""

_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
    "rescale_betas_zero_snr",
)


_AT_ONCE = 8
"""Steps whose unconditional references share a pass that is not compiled: a row by itself leaves a GPU mostly idle."""


@dataclass(frozen=True)
class Sampling:
    """How views are sampled."""

    sampler: str
    steps: int
    guidance: float
    """Scale of classifier-free guidance; 1: none."""
    rescale: float = 0.0
    """Share by which a guided prediction is brought back to the deviation of the conditional one (Lin et al. 2023,
    section 3.4); 0: off."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Guidance acts only at timesteps whose share of the schedule lies in it (Kynkaanniemi et al. 2024)."""

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler {self.sampler!r} is unknown", f"choose {', '.join(SAMPLERS)}")
        if not isinstance(self.steps, int):
            raise InputError(f"{self.steps!r} sampling steps", "give a whole number")
        if not math.isfinite(self.guidance):
            raise InputError(f"guidance {self.guidance}", "give a finite number")
        if not 0 <= self.rescale <= 1:
            raise InputError(f"guidance rescale {self.rescale}", "choose 0 (off) to 1")
        rising = isinstance(self.interval, Sequence) and len(self.interval) == 2
        if not rising or not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise InputError(f"guidance interval {self.interval!r}", "choose two rising numbers from 0 to 1")

    def scheduler(self, model: MultiViewModel) -> Any:
        """diffusers' scheduler over the model's noise schedule, with trailing timesteps."""
        if not 1 <= self.steps <= model.num_train_timesteps:
            raise InputError(f"{self.steps} sampling steps", f"choose 1 to {model.num_train_timesteps}")
        if self.sampler != "ddim" and model.scheduler.config.get("rescale_betas_zero_snr"):
            raise InputError(
                f"sampler {self.sampler} divides by the signal, and this model starts with none",
                "choose ddim for a model whose schedule ends in pure noise",
            )
        kind, own = SAMPLERS[self.sampler]
        known = inspect.signature(kind.__init__).parameters
        kept = {name: value for name, value in model.scheduler.config.items() if name in _SCHEDULE and name in known}
        made = kind(**kept, **own, timestep_spacing="trailing")
        # On the CPU, where a scheduler looks up its numbers: reading a timestep off a GPU would wait for all its work.
        made.set_timesteps(self.steps)
        return made


@dataclass
class Blanks:
    """What the unconditional branch of each step sees, kept from call to call while the weights stay as they are."""

    sampling: tuple[str, int] | None = None
    """Sampler and steps that it is of."""
    conditions: dict[int, Condition] = field(default_factory=dict)
    """By number of the step."""
    latents: Tensor | None = None
    """Those of the blank picture."""

    def of(self, sampling: Sampling) -> dict[int, Condition]:
        """Those of ``sampling``; others are let go."""
        asked = (sampling.sampler, sampling.steps)
        if self.sampling != asked:
            self.sampling, self.conditions = asked, {}
        return self.conditions


def sample(
    model: MultiViewModel,
    pictures: Tensor,
    glance: Tensor,
    cameras: Tensor,
    noise: SampleNoise,
    sampling: Sampling,
    progress: Callable[[int], None] = lambda steps: None,
    kept: Blanks | None = None,
    filled: int | None = None,
) -> Tensor:
    """View latents float [B, 6, C, h, w].

    ``pictures`` uint8 [B, S, S, 3] and ``glance`` uint8 [B, g, g, 3] as ``model.sight`` makes them, ``cameras`` float
    [B, 6, 4] relative to the pictures'. The unconditional reference is the same for all samples: it is made once for
    the batch, and for later ones too where they are given what it ``kept``; in passes of several steps, and where
    passes are compiled for ``filled`` rows in passes of just so many, since any others would have to be compiled too.
    """
    scheduler = sampling.scheduler(model)
    shapes, device, samples = model.noise_shapes, model.signal.device, len(pictures)
    blanks = blank_noise(device)

    def drawn(source: SampleNoise, name: str) -> Tensor | None:
        return source.draw(name, shapes[name]) if name in shapes else None

    reference = model.refer(pictures, glance, drawn(noise, "reference_posterior"))
    lasting = kept is not None
    kept = Blanks() if kept is None else kept
    blank_draw = drawn(blanks, "reference_posterior")
    fewest, most = (1, _AT_ONCE) if filled is None else (filled, filled)
    if kept.latents is None:
        kept.latents = model.blank(blank_draw, fewest)
    blank = kept.latents
    latents = noise.draw("views", shapes["views"]) * scheduler.init_noise_sigma
    blank_rows: list[Tensor | None] = []
    undropped = torch.zeros(samples, dtype=torch.bool, device=device)
    condition: Condition | None = None
    unconditional = kept.of(sampling)
    # a noised reference is of one timestep; a clean one serves them all
    stale = model.noised_reference
    for number, step in enumerate(scheduler.timesteps):
        timestep = torch.full((samples,), int(step), device=device)
        noisy = scheduler.scale_model_input(latents, step)
        if condition is None or stale:
            condition = model.condition(reference, blank, timestep, drawn(noise, "reference"), undropped)
        v = model.predict_v(noisy, timestep, cameras, condition).float()
        if _guided(sampling, step, model):
            shared = number if stale else 0
            if shared not in unconditional:
                if not lasting:
                    unconditional.clear()
                # the same steps together, guided or not, and noise of every step: the interval changes no bit
                first = number - number % most
                together = range(first, min(first + most, len(scheduler.timesteps))) if stale else range(1)
                blank_rows = blank_rows or [drawn(blanks, "reference") for _ in scheduler.timesteps]
                unconditional |= _unconditional(model, blank, scheduler.timesteps, together, blank_rows, fewest)
            without = model.predict_v(noisy, timestep, cameras, unconditional[shared]).float()
            v = _guide(v, without, sampling)
        # ancestral samplers alone take noise at every step
        fresh = {"noise": noise.draw("ancestral", shapes["views"])} if sampling.sampler == "euler_ancestral" else {}
        latents = scheduler.step(v, step, latents, **fresh).prev_sample
        progress(1)
    # however the last step has left them: of each way they lie a compiled decoder would be another
    return latents.contiguous()


def _unconditional(
    model: MultiViewModel,
    blank: Tensor,
    timesteps: Tensor,
    numbers: Sequence[int],
    noise: list[Tensor | None],
    fewest: int,
) -> dict[int, Condition]:
    """What the unconditional branch sees at each of the steps ``numbers``; ``noise`` is that of every step.

    The last one is repeated until there are ``fewest`` rows.
    """
    passed = [*numbers, *[numbers[-1]] * (fewest - len(numbers))]
    of = torch.tensor([int(timesteps[number]) for number in passed], device=blank.device)
    rows = [row for number in passed if (row := noise[number]) is not None]
    together = model.unconditional(blank, of, torch.cat(rows) if rows else None)
    return dict(zip(numbers, together.rows(len(numbers)), strict=True))


def _guided(sampling: Sampling, step: Tensor, model: MultiViewModel) -> bool:
    low, high = sampling.interval
    return sampling.guidance != 1 and low <= float(step) / (model.num_train_timesteps - 1) <= high


def _guide(conditional: Tensor, unconditional: Tensor, sampling: Sampling) -> Tensor:
    guided = unconditional + sampling.guidance * (conditional - unconditional)
    if sampling.rescale == 0:
        return guided
    of = tuple(range(1, guided.ndim))
    matched = guided * (conditional.std(of, keepdim=True) / guided.std(of, keepdim=True))
    return torch.lerp(guided, matched, sampling.rescale)
