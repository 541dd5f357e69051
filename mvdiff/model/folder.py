"""A model on disk: diffusers' folder layout, one folder a component, safetensors and JSON only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors import SafetensorError

from mvdiff.errors import InputError
from mvdiff.model.camera import CameraEmbedding
from mvdiff.model.context import ContextEncoder
from mvdiff.model.index import INDEX, read_index
from mvdiff.model.latents import PatchLatents
from mvdiff.model.settings import ModelSettings

Component = UNet2DConditionModel | PatchLatents | CameraEmbedding | ContextEncoder | DDIMScheduler

# The only classes that a model folder may name: nothing in it can make us import or call anything else.
COMPONENTS: dict[str, tuple[str, type[Component]]] = {
    "unet": ("diffusers", UNet2DConditionModel),
    "vae": ("mvdiff", PatchLatents),
    "camera": ("mvdiff", CameraEmbedding),
    "context": ("mvdiff", ContextEncoder),
    "scheduler": ("diffusers", DDIMScheduler),
}


def write(path: Path, settings: ModelSettings, components: Mapping[str, Component]) -> None:
    """Write ``components`` (by folder name) and their index into ``path``, which is made where missing."""
    path.mkdir(parents=True, exist_ok=True)
    for name, component in components.items():
        component.save_pretrained(path / name)
    index: dict[str, Any] = {"_class_name": "MultiViewPipeline", "_diffusers_version": diffusers.__version__}
    index |= {name: [library, kind.__name__] for name, (library, kind) in COMPONENTS.items()}
    index["settings"] = settings.written()
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def read(path: Path) -> tuple[ModelSettings, dict[str, Any]]:
    """Settings and components that ``write`` put into ``path``.

    Raises ``InputError`` for a missing, foreign or damaged folder.
    """
    index = read_index(path)
    for name, (library, kind) in COMPONENTS.items():
        if index.get(name) != [library, kind.__name__]:
            raise InputError(
                f"{path / INDEX} names {index.get(name)} as its {name}",
                f"this program loads {kind.__name__} of {library} there; give a folder it has written",
            )
    settings = ModelSettings.read(index.get("settings", {}))
    return settings, {name: _read_component(path / name, kind) for name, (_, kind) in COMPONENTS.items()}


def _read_component(path: Path, kind: Any) -> Any:
    if not path.is_dir():
        raise InputError(f"the model lacks its folder {path}", "give a complete checkpoint")
    try:
        if kind is DDIMScheduler:
            return DDIMScheduler.from_pretrained(path, local_files_only=True)
        # diffusers draws weights that a file lacks at random and only warns: ask what it found.
        component, found = kind.from_pretrained(
            path, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} does not load ({reason})", "give an undamaged checkpoint") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            raise InputError(
                f"weights of {path} do not fit: {what.replace('_', ' ')} {', '.join(map(str, found[what][:3]))}",
                "give an undamaged checkpoint, of the same version of this program",
            )
    return component
