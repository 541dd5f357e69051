"""A model on disk: diffusers' folder layout, one folder a component, safetensors and JSON only."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from safetensors.torch import save_file
from transformers import CLIPVisionModelWithProjection

from mvdiff.errors import InputError
from mvdiff.model import adapter
from mvdiff.model.camera import CameraEmbedding
from mvdiff.model.component import read_component
from mvdiff.model.context import LearnedContext, PromptContext
from mvdiff.model.index import INDEX, read_index
from mvdiff.model.latents import PatchLatents
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.settings import ModelSettings
from mvdiff.placement import Placement

# The only classes that a model folder may name: nothing in it can make us import or call anything else.
COMPONENTS: dict[str, tuple[tuple[str, Any], ...]] = {
    "unet": (("diffusers", UNet2DConditionModel),),
    "vae": (("mvdiff", PatchLatents), ("diffusers", AutoencoderKL)),
    "context": (("mvdiff", LearnedContext), ("mvdiff", PromptContext)),
    "camera": (("mvdiff", CameraEmbedding),),
    "vision_encoder": (("transformers", CLIPVisionModelWithProjection),),
    "scheduler": (("diffusers", DDIMScheduler), ("diffusers", EulerAncestralDiscreteScheduler)),
}
OPTIONAL = ("camera", "vision_encoder")


@torch.no_grad()
def save(model: MultiViewModel, path: Path) -> None:
    """Write ``model`` into the folder ``path``, which is made where missing.

    A LoRA is merged into the UNet and also lies beside it, in ``unet_lora/``; a trained word is encoded into the stored
    prompt.
    """
    path.mkdir(parents=True, exist_ok=True)
    if model.word is not None:
        model.context.prompt.copy_(model.word())
    index: dict[str, Any] = {"_class_name": "MultiViewPipeline", "_diffusers_version": diffusers.__version__}
    for name, allowed in COMPONENTS.items():
        component = getattr(model, name)
        if component is None:
            index[name] = [None, None]
            continue
        index[name] = next([library, kind.__name__] for library, kind in allowed if isinstance(component, kind))
        _forget_origin(component)
        if name == "unet" and adapter.is_on(component):
            component.save_config(path / name)
            weights = path / name / "diffusion_pytorch_model.safetensors"
            save_file(adapter.merged(component), weights, metadata={"format": "pt"})
            adapter.save(component, path / "unet_lora")
        else:
            component.save_pretrained(path / name)
    index |= {
        "settings": _without_paths(model.settings).written(),
        "origin": model.origin,
        "slots": list(model.slots),
        "placement": model.placement.written(),
    }
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def load(path: Path) -> MultiViewModel:
    """The model that ``save`` put into ``path``; ``InputError`` for a missing, foreign or damaged folder."""
    return MultiViewModel(**parts(path))


def parts(path: Path) -> dict[str, Any]:
    """What ``save`` put into ``path``, as arguments of ``MultiViewModel``; ``InputError`` as ``load`` does."""
    index = read_index(path)
    if index.get("_class_name") in ("Zero123PlusPipeline", "StableDiffusionPipeline"):
        raise InputError(
            f"{path} holds published weights, no checkpoint of this program",
            f"train from them first: mvdiff train model.pretrained={path} ...",
        )
    classes = {name: _class(path, index, name) for name in COMPONENTS}
    slots = index.get("slots")
    if not isinstance(slots, list) or sorted(map(str, slots)) != [str(k) for k in range(6)]:
        raise InputError(f"{path / INDEX} names the slots {slots}", "give an undamaged checkpoint")
    arguments: dict[str, Any] = {
        "settings": ModelSettings.read(index.get("settings", {})),
        "slots": slots,
        "placement": Placement.read(index.get("placement")),
        "origin": _origin(path, index),
    }
    components = {name: read_component(path / name, kind) for name, kind in classes.items() if kind is not None}
    return arguments | components


def _origin(path: Path, index: dict[str, Any]) -> dict[str, str]:
    origin = index.get("origin")
    known = {"name", "family", "xxh3"}
    if not isinstance(origin, dict) or (origin and not known <= set(origin) <= known | {"through"}):
        raise InputError(f"{path / INDEX} names the origin {origin}", "give an undamaged checkpoint")
    return {key: str(value) for key, value in origin.items()}


def _without_paths(settings: ModelSettings) -> ModelSettings:
    """A checkpoint travels: it names the folder that its training began with, not where that lay."""
    return replace(settings, pretrained=Path(settings.pretrained).name) if settings.pretrained else settings


def _class(path: Path, index: dict[str, Any], name: str) -> Any:
    named = index.get(name)
    if name in OPTIONAL and named == [None, None]:
        return None
    for library, kind in COMPONENTS[name]:
        if named == [library, kind.__name__]:
            return kind
    loaded = " or ".join(f"{kind.__name__} of {library}" for library, kind in COMPONENTS[name])
    raise InputError(
        f"{path / INDEX} names {named} as its {name}",
        f"this program loads {loaded} there; give a folder it has written",
    )


def _forget_origin(component: Any) -> None:
    """diffusers and transformers note the folder they loaded from: a restart must not show in a checkpoint."""
    if hasattr(component, "register_to_config"):
        component.register_to_config(_name_or_path="")
    else:
        component.config._name_or_path = ""
