"""Where a new model's weights come from, and whether what is asked for fits them. Imports no torch."""

from dataclasses import dataclass

from mvdiff.errors import InputError
from mvdiff.model.pretrained import Pretrained, find, inspect
from mvdiff.model.settings import RANDOM, ModelSettings
from mvdiff.rig import VIEWS, rig, slots

LATENT_FACTOR = 8
"""Pixels a side of one latent position of Stable Diffusion's autoencoder."""
UNET_FACTOR = 8
"""Its UNet halves the latents three times."""


@dataclass(frozen=True)
class Origin:
    """The weights that a model starts from, found and checked."""

    pretrained: Pretrained | None
    """None for random weights."""
    slots: tuple[int, ...]
    """Which view of the model's rig stands in each of the six places that the weights know."""


def origin(settings: ModelSettings) -> Origin:
    """The origin of the model of ``settings``.

    Raises:
        InputError: weights that are missing, damaged or of another kind, cameras that differ from theirs with no
            ``mapping`` asked for, a size or a prompt that they cannot serve.
    """
    if not settings.starts_from_weights:
        if settings.pretrained == RANDOM:
            _refuse_sizes(settings)
        return Origin(None, _slots(settings, settings.pretrained_rig))
    assert settings.pretrained is not None
    pretrained = inspect(find(settings.pretrained), half=settings.accept_half)
    if pretrained.kind == "mvdiff":
        return Origin(pretrained, _onwards(settings, pretrained))
    if settings.new is not None:
        raise InputError(
            f"model={settings.name} makes a small model, {pretrained.folder} holds a large one",
            "choose model=zero123plus-v1.2 or another large one for these weights",
        )
    _refuse_sizes(settings)
    if pretrained.kind == "zero123plus" and settings.pretrained_rig is None:
        raise InputError(
            f"{pretrained.folder} holds Zero123++ and does not say which version's cameras it was trained for",
            "set model.pretrained_rig=zero123plus-v1.1 or zero123plus-v1.2",
        )
    if pretrained.kind == "stable-diffusion" and settings.pretrained_rig is not None:
        raise InputError(
            f"{pretrained.folder} holds plain Stable Diffusion, which knows no views, and model.pretrained_rig says "
            "that it does",
            "choose model=stable-diffusion-2.1 for these weights",
        )
    known = settings.pretrained_rig if pretrained.kind == "zero123plus" else None
    return Origin(pretrained, _slots(settings, known))


def _slots(settings: ModelSettings, known: str | None) -> tuple[int, ...]:
    if known is None:
        return tuple(range(VIEWS))
    weights = rig(known)
    if weights.around_a_seventh and settings.mapping is None:
        raise InputError(
            f"these weights make {weights.described} around a picture that is none of the six, and in data of "
            f"{settings.cameras.described} the picture is one of them",
            "set model.mapping=order (view k trains slot k), nearest, or a list of six views",
        )
    return slots(weights, settings.cameras, settings.mapping)


def _onwards(settings: ModelSettings, pretrained: Pretrained) -> tuple[int, ...]:
    """Slots of a model that goes on from a checkpoint of this program."""
    stored = ModelSettings.read(pretrained.index.get("settings", {}))
    kept = ["size", "new"] if stored.new is not None or settings.new is not None else ["size"]
    if settings.prompt == "token":
        raise InputError(
            f"{pretrained.folder} holds no text encoder, and model.prompt=token trains through one",
            "start from the weights it was trained from, or choose model.prompt=text or learnable",
        )
    if stored.new is None and stored.prompt != "token":
        kept.append("prompt_text")
    for key in kept:
        if getattr(stored, key) != getattr(settings, key):
            raise InputError(
                f"{pretrained.folder} was made with model.{key}={getattr(stored, key)}, asked for is "
                f"{getattr(settings, key)}",
                "ask for the same, or start from other weights",
            )
    if stored.new is None:
        _refuse_sizes(settings)
    moved = slots(stored.cameras, settings.cameras, settings.mapping)
    return tuple(moved[view] for view in pretrained.index["slots"])


def _refuse_sizes(settings: ModelSettings) -> None:
    step = LATENT_FACTOR * UNET_FACTOR
    for key in ("size", "condition_size"):
        if getattr(settings, key) % step:
            raise InputError(
                f"model.{key}={getattr(settings, key)} does not fit", f"the large models take multiples of {step}"
            )
