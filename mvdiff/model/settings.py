"""What a model is made of, as written in ``configs/model/*.yaml`` and stored with its weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from mvdiff.errors import InputError
from mvdiff.rig import Rig, rig


@dataclass(frozen=True)
class ModelSettings:
    """Architecture, noise schedule and the sampler's usual values of one multi-view model."""

    name: str
    """Name of the model, for people."""
    rig: str
    """The rig whose six cameras the model is trained for (``mvdiff/rig.py``)."""
    size: int
    """Height and width of the pictures in pixels, a multiple of ``patch``."""
    patch: int
    """Side in pixels of the square patch that becomes one latent position."""
    latent_channels: int
    """Principal components kept of each patch."""
    latent_whitening: float
    """0 keeps the components' variances as pixels have them, 1 makes all of them equal."""
    latent_deviation: float
    """Root mean square of the latents where there is a mouse (the background's latents are zero)."""
    latent_floor: float
    """A patch with less than this share of an average mouse patch's energy is decoded as blank."""
    widths: tuple[int, ...]
    """UNet channels at each resolution, finest first."""
    attention: tuple[bool, ...]
    """Which of these resolutions have attention, finest first."""
    layers_per_block: int
    """Residual blocks at each resolution of the UNet's way down (one more on its way up)."""
    head_width: int
    """Channels of one attention head; divides every width that has attention."""
    condition_channels: bool
    """The condition's latents are input channels of every view too, besides being seen through attention."""
    middle: bool
    """A middle block at the coarsest resolution."""
    norm_groups: int
    """Groups of the UNet's group norms; divides every width."""
    context_tokens: int
    """Tokens of the cross-attention context (the seat of a prompt)."""
    context_width: int
    """Width of a context token."""
    condition_grid: int
    """The condition's global embedding sees it averaged to this many cells a side."""
    reference: str
    """``clean``: reference attention sees the condition without noise; ``noised``: at the target's timestep."""
    timesteps: int
    """Length of the training noise schedule."""
    beta_start: float
    """First beta of the noise schedule."""
    beta_end: float
    """Last beta of the noise schedule."""
    beta_schedule: str
    """``linear`` or ``scaled_linear``, as diffusers names them."""
    zero_terminal_snr: bool
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023, section 3.1)."""
    steps: int
    """Sampling steps when none are asked for."""
    guidance: float
    """Guidance scale when none is asked for; 1 is no guidance."""

    def __post_init__(self) -> None:
        for name in ("widths", "attention"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        rig(self.rig)
        for name in ("size", "patch", "condition_grid", "norm_groups", "head_width", "latent_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name}={getattr(self, name)} does not fit", "give 1 or more")
        grid = self.size // self.patch
        deepest = 2 ** (len(self.widths) - 1)
        refused = [
            (len(self.widths) < 2, "widths", "give at least two resolutions"),
            (len(self.attention) != len(self.widths), "attention", "give one true or false for each of widths"),
            (not any(self.attention), "attention", "at least one resolution needs attention, or views never meet"),
            (self.size % self.patch != 0, "patch", f"choose a divisor of size={self.size}"),
            (
                grid % deepest != 0,
                "widths",
                f"{grid} latents a side do not halve {len(self.widths) - 1} times",
            ),
            (grid % self.condition_grid != 0, "condition_grid", f"choose a divisor of {grid}, the latents' side"),
            (any(w % self.norm_groups for w in self.widths), "norm_groups", "choose a divisor of every width"),
            (
                any(w % self.head_width for w, on in zip(self.widths, self.attention, strict=False) if on),
                "head_width",
                "choose a divisor of every width with attention",
            ),
            (self.latent_channels > 3 * self.patch**2, "latent_channels", "a patch has fewer values than that"),
            (self.reference not in ("clean", "noised"), "reference", "choose clean or noised"),
            (self.beta_schedule not in ("linear", "scaled_linear"), "beta_schedule", "choose linear or scaled_linear"),
            (not 1 <= self.steps <= self.timesteps, "steps", f"choose 1 to {self.timesteps}"),
        ]
        for wrong, key, mend in refused:
            if wrong:
                raise InputError(f"model.{key}={getattr(self, key)} does not fit", mend)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a mapping that names each of them, as stored with the weights."""
        known = {field.name for field in fields(cls)}
        if missing := sorted(known - set(values)):
            raise InputError(f"model settings lack {', '.join(missing)}", "use the settings written with the weights")
        if foreign := sorted(set(values) - known):
            raise InputError(f"unknown model settings {', '.join(foreign)}", f"known are {', '.join(sorted(known))}")
        return cls(**values)

    def written(self) -> dict[str, Any]:
        """The mapping that ``read`` takes, of plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def cameras(self) -> Rig:
        """The rig itself."""
        return rig(self.rig)

    @property
    def grid(self) -> int:
        """Latent positions a side."""
        return self.size // self.patch
