"""What a model is made of, as written in ``configs/model/*.yaml`` and stored with its weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from mvdiff.errors import InputError, refuse
from mvdiff.rig import Rig, rig

NEW_WORD = "[MOUSE]"
"""The token that ``prompt=token`` adds to the vocabulary."""

RANDOM = "random"
"""``pretrained=random``: the published architecture with random weights, for measurements."""

_MOST_WORDS = 75
"""A token a word, between the two that begin and end a text."""

SAMPLERS = ("ddim", "euler_ancestral", "dpmsolver++", "unipc")
"""What ``sampler.py`` implements, by name."""

_CHOICES = {
    "layout": ("views", "tile"),
    "camera": ("adaln", "cross_attention", "concat", "none"),
    "reference": ("clean", "noised"),
    "prompt": ("text", "learnable", "token"),
    "sampler": SAMPLERS,
}


@dataclass
class NewModel:
    """Architecture and noise schedule of a model that is made from nothing.

    Not frozen: OmegaConf makes a frozen part of a configuration read-only before it has filled it in.
    """

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

    def __post_init__(self) -> None:
        for name in ("widths", "attention"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        numbers = ("patch", "condition_grid", "norm_groups", "head_width", "latent_channels", "timesteps")
        refuse(
            _misfit(f"new.{name}", getattr(self, name), "give 1 or more") for name in numbers if getattr(self, name) < 1
        )
        refused = [
            (len(self.widths) < 2, "widths", "give at least two resolutions"),
            (len(self.attention) != len(self.widths), "attention", "give one true or false for each of widths"),
            (not any(self.attention), "attention", "at least one resolution needs attention, or views never meet"),
            (any(w % self.norm_groups for w in self.widths), "norm_groups", "choose a divisor of every width"),
            (
                any(w % self.head_width for w, on in zip(self.widths, self.attention, strict=False) if on),
                "head_width",
                "choose a divisor of every width with attention",
            ),
            (self.latent_channels > 3 * self.patch**2, "latent_channels", "a patch has fewer values than that"),
            (self.beta_schedule not in ("linear", "scaled_linear"), "beta_schedule", "choose linear or scaled_linear"),
        ]
        refuse(_misfit(f"new.{key}", getattr(self, key), mend) for wrong, key, mend in refused if wrong)

    def refuse_size(self, size: int) -> None:
        """Raise an ``InputError`` where pictures of ``size`` pixels do not fit the architecture."""
        grid = size // self.patch
        refused = [
            (size % self.patch != 0, "patch", f"choose a divisor of size={size}"),
            (
                grid % 2 ** (len(self.widths) - 1) != 0,
                "widths",
                f"{grid} latents a side do not halve {len(self.widths) - 1} times",
            ),
            (grid % self.condition_grid != 0, "condition_grid", f"choose a divisor of {grid}, the latents' side"),
        ]
        refuse(_misfit(f"new.{key}", getattr(self, key), mend) for wrong, key, mend in refused if wrong)


@dataclass(frozen=True)
class ModelSettings:
    """One multi-view model: where its weights come from, how views, cameras and prompt enter, how it is sampled."""

    name: str
    """Name of the model, for people."""
    pretrained: str | None
    """Weights to start from: a folder in diffusers' layout (Zero123++, Stable Diffusion 2.1, or a checkpoint of this
    program), or the name of one in the local hub cache; ``random``: the published architecture with random weights;
    null: the architecture of ``new``."""
    pretrained_rig: Any
    """The six cameras that published weights were trained for; null where they know none, or say it themselves."""
    mapping: Any
    """Where the rigs differ, that it is meant: ``order``, ``nearest``, or a list; null: they must not differ. In a tile
    it says which view stands in which of the pretrained model's six slots; apart, each view has its own camera."""
    accept_half: bool
    """Train float32 copies of a UNet that was stored in half precision."""
    rig: Any
    """The rig whose six cameras the model makes: a name (``mvdiff/rig.py``), or {name, azimuth, elevation, fov,
    distance}."""
    size: int
    """Height and width of the pictures in pixels."""
    condition_size: int
    """Side in pixels at which the condition's latents are taken for reference attention."""
    layout: str
    """``views``: six latents in the batch axis, each with its camera; ``tile``: one image of 3 x 2 views."""
    camera: str
    """How cameras enter: ``adaln`` (added to the time embedding), ``cross_attention`` (added to the context),
    ``concat`` (input channels); ``none`` for a tile, whose slots are its cameras."""
    reference: str
    """``clean``: reference attention sees the condition without noise; ``noised``: at the target's timestep."""
    prompt: str
    """``text``: fixed; ``learnable``: its embedding is trained; ``token``: the row of ``[MOUSE]`` alone is trained."""
    prompt_text: str
    """The prompt; where a learnable one starts."""
    sampler: str
    """The sampler when none is asked for: ``euler_ancestral``, ``ddim``, ``dpmsolver++`` or ``unipc``."""
    steps: int
    """Sampling steps when none are asked for."""
    guidance: float
    """Guidance scale when none is asked for; 1 is no guidance."""
    new: NewModel | None
    """What a model made from nothing consists of; null where ``pretrained`` says it."""

    def __post_init__(self) -> None:
        if isinstance(self.new, Mapping):
            object.__setattr__(self, "new", _built(NewModel, self.new, "new."))
        if isinstance(self.mapping, list | tuple):
            object.__setattr__(self, "mapping", tuple(self.mapping))
        for name in ("rig", "pretrained_rig"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, rig(getattr(self, name)).text)
        mends = {name: f"choose {', '.join(choices)}" for name, choices in _CHOICES.items()}
        wrong = [name for name, choices in _CHOICES.items() if getattr(self, name) not in choices]
        wrong += [name for name in ("size", "condition_size", "steps") if getattr(self, name) < 1]
        refuse(_misfit(name, getattr(self, name), mends.get(name, "give 1 or more")) for name in wrong)
        tiled = self.layout == "tile"
        refused = [
            (
                self.pretrained is None and self.new is None,
                "pretrained",
                "give a folder in diffusers' layout or a name in the hub cache (random: random weights)",
            ),
            (tiled and self.camera != "none", "camera", "a tile serves all views with one time embedding: camera=none"),
            (
                tiled and self.new is not None and self.new.condition_channels,
                "layout",
                "a tile is not of the size of its condition: model.new.condition_channels=false",
            ),
            (
                not tiled and self.camera == "none",
                "camera",
                f"separate views are told apart by their cameras alone: choose {', '.join(_CHOICES['camera'][:3])}",
            ),
            (
                self.prompt == "token" and NEW_WORD not in self.prompt_text,
                "prompt_text",
                f"a prompt with a new token names it: 'a photo of a {NEW_WORD}, white background'",
            ),
            (not self.prompt_text.isprintable(), "prompt_text", "write it in one line, without control characters"),
            (
                len(self.prompt_text.split()) > _MOST_WORDS,
                "prompt_text",
                f"CLIP reads 77 tokens, so {_MOST_WORDS} words at most",
            ),
            (
                self.prompt != "token" and NEW_WORD in self.prompt_text,
                "prompt_text",
                f"{NEW_WORD} is a word only with model.prompt=token",
            ),
            (
                self.prompt == "token" and self.pretrained in (None, RANDOM),
                "prompt",
                "a new token needs a text encoder: give model.pretrained",
            ),
            (self.new is not None and self.prompt != "learnable", "prompt", "a new model has a learnable prompt only"),
            (
                self.new is not None and self.condition_size != self.size,
                "condition_size",
                f"a new model sees it as large as its views: {self.size}",
            ),
        ]
        refuse(_misfit(key, getattr(self, key), mend) for wrong, key, mend in refused if wrong)
        if self.new is not None:
            self.new.refuse_size(self.size)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a mapping that names each of them, as stored with the weights."""
        return _built(cls, values, "")

    def written(self) -> dict[str, Any]:
        """The mapping that ``read`` takes, of plain JSON values."""
        return _plain(asdict(self))

    def refuse_turned_tile(self, turned: bool, key: str) -> None:
        """Raise an ``InputError`` where ``turned`` and a tile cannot be told from another view than the rig's first.

        A tile's slots are its cameras: seen from another view they turn with it, which only an even rig allows.
        """
        if turned and self.layout == "tile" and not self.cameras.even:
            raise InputError(
                f"{key} does not fit: {self.cameras.described} is not the same from each of its views",
                "take view 0 as the reference, or train with model.layout=views",
            )

    @property
    def cameras(self) -> Rig:
        """The rig itself."""
        return rig(self.rig)

    @property
    def starts_from_weights(self) -> bool:
        """Whether the weights come from a folder."""
        return self.pretrained not in (None, RANDOM)


def _built(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    known = {field.name for field in fields(kind)}
    if missing := sorted(known - set(values)):
        raise InputError(
            f"model settings lack {', '.join(prefix + name for name in missing)}",
            "use the settings written with the weights",
        )
    if foreign := sorted(set(values) - known):
        raise InputError(
            f"unknown model settings {', '.join(prefix + name for name in foreign)}",
            f"known are {', '.join(sorted(known))}",
        )
    return kind(**values)


def _misfit(key: str, value: Any, mend: str) -> InputError:
    return InputError(f"model.{key}={value} does not fit", mend)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
