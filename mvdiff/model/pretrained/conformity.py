"""What published weights must be for this program to train them, told from their JSON files and weight headers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.errors import InputError
from mvdiff.model.pretrained import blueprint
from mvdiff.model.pretrained.jsonfile import JsonFile, shown
from mvdiff.model.pretrained.weightfile import DIFFUSERS, TRANSFORMERS, Weights

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
PROMPT_TOKENS = 77

_COMPLETE = "complete the download, or give a complete copy of the model"
_COUNT = "embeddings.position_ids"
"""0, 1, 2, ...: what older versions of transformers store with CLIP, and newer ones pass over."""
_PRECISIONS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class Network:
    """A component with weights."""

    kind: str
    """The class that loads it."""
    stem: str
    """Its weight file's name without the suffix."""
    blueprint: Callable[[JsonFile], blueprint.Blueprint]


NETWORKS = {
    "unet": Network("UNet2DConditionModel", DIFFUSERS, blueprint.unet),
    "vae": Network("AutoencoderKL", DIFFUSERS, blueprint.vae),
    "text_encoder": Network("CLIPTextModel", TRANSFORMERS, blueprint.text_encoder),
    "vision_encoder": Network("CLIPVisionModelWithProjection", TRANSFORMERS, blueprint.vision_encoder),
}
_EXTRACTOR = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")
_CLASSES: dict[str, tuple[str, ...]] = {name: (network.kind,) for name, network in NETWORKS.items()}
_CLASSES |= {"tokenizer": ("CLIPTokenizer",), "feature_extractor_clip": _EXTRACTOR, "feature_extractor_vae": _EXTRACTOR}

STABLE_DIFFUSION = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
ZERO123PLUS = (*STABLE_DIFFUSION, "vision_encoder", "feature_extractor_clip", "feature_extractor_vae")


def read_configs(index: JsonFile, wanted: tuple[str, ...]) -> dict[str, JsonFile]:
    """The configuration of each of the ``wanted`` components, which must be there and of the classes that load."""
    configs = {}
    for name in wanted:
        folder = index.path.parent / name
        entry = index.values.get(name)
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if kind is None:
            raise InputError(f"{index.path} names no {name}", _COMPLETE)
        if not is_class(kind, name):
            raise InputError(
                f"{index.path} names {shown(kind)} as its {name}", f"{_loaded(name)} is what this program loads there"
            )
        if not folder.is_dir():
            raise InputError(f"the model lacks its folder {folder}", _COMPLETE)
        configs[name] = JsonFile.read(folder / config_name(str(kind)))
        if name in NETWORKS:
            _check_class(configs[name], name)
    return configs


def config_name(kind: str) -> str:
    """The name of the file that configures a component of class ``kind``."""
    if kind.endswith("Scheduler"):
        return "scheduler_config.json"
    if kind.endswith(("Tokenizer", "TokenizerFast")):
        return "tokenizer_config.json"
    return "preprocessor_config.json" if kind in _EXTRACTOR else "config.json"


def is_class(kind: object, name: str) -> bool:
    """Whether the class ``kind`` serves as the component ``name``. Of a scheduler only the configuration counts."""
    if name == "scheduler":
        return isinstance(kind, str) and kind.endswith("Scheduler")
    return kind in _CLASSES[name]


def check_networks(configs: Mapping[str, JsonFile], weights: Mapping[str, Weights], half: bool) -> None:
    """Raise an ``InputError`` unless the networks fit together, and their weights fit their configurations.

    ``half``: weights of the UNet, all of which are trained as float32, may be stored in half precision.
    """
    for name in ("in_channels", "out_channels"):
        configs["unet"].require(name, 4)
        configs["vae"].require(name, 3)
    configs["vae"].require("latent_channels", 4)
    configs["vae"].require("scaling_factor", 0.18215, missing=0.18215)
    configs["text_encoder"].require("max_position_embeddings", PROMPT_TOKENS)
    width = configs["unet"].integer("cross_attention_dim")
    for name, key, what in (
        ("text_encoder", "hidden_size", "text embeddings"),
        ("vision_encoder", "projection_dim", "image embeddings"),
    ):
        if name in configs and (given := configs[name].integer(key)) != width:
            raise InputError(
                f"wrong width of {what}: {configs[name].path} says {given}{_known(given)}, "
                f"{configs['unet'].path} wants {width}{_known(width)}",
                "give a folder whose networks belong together",
            )
    for name, found in weights.items():
        needed = NETWORKS[name].blueprint(configs[name])
        _check_shapes(name, needed, configs[name].path, found)
        _check_precision(name, needed, found, half)


def check_scheduler(config: JsonFile, beta_schedules: tuple[str, ...]) -> None:
    """Raise an ``InputError`` unless the noise schedule is the published one, with one of ``beta_schedules``."""
    if config.values.get("prediction_type", "epsilon") == "epsilon":
        raise InputError(
            f"{config.path} says that the UNet predicts epsilon, as that of SD 2.1-base does",
            "give one that predicts v: zero123plus, or SD 2.1 at 768 pixels",
        )
    config.require("prediction_type", "v_prediction")
    config.require("num_train_timesteps", 1000)
    config.require("beta_start", 0.00085)
    config.require("beta_end", 0.012)
    config.require("beta_schedule", *beta_schedules)
    config.require("trained_betas", None)


def check_tokenizer(folder: Path, text_encoder: JsonFile) -> None:
    """Raise an ``InputError`` unless every token has a row in the text encoder's table."""
    single = folder / "tokenizer.json"
    file = JsonFile.read(single if single.is_file() and not (folder / "vocab.json").exists() else folder / "vocab.json")
    tokens: Any = file.values
    if file.path == single:
        model = tokens.get("model")
        tokens = model.get("vocab") if isinstance(model, dict) else None
    elif not _has_content(folder / "merges.txt"):
        raise InputError(f"{folder / 'merges.txt'} is missing or empty", _COMPLETE)
    if not isinstance(tokens, dict) or not tokens or any(type(one) is not int or one < 0 for one in tokens.values()):
        raise InputError(f"{file.path} holds no vocabulary", "an object of tokens and their numbers is wanted")
    rows = text_encoder.integer("vocab_size")
    if max(tokens.values()) >= rows:
        raise InputError(
            f"{file.path} numbers its tokens up to {max(tokens.values())}, and {text_encoder.path} says "
            f"vocab_size={rows}",
            "give a folder whose tokenizer and text encoder belong together",
        )


def check_sight(clip: JsonFile, vae: JsonFile, vision_encoder: JsonFile) -> None:
    """Raise an ``InputError`` unless pictures are prepared for both encoders as published."""
    for file, means, deviations in ((clip, CLIP_MEAN, CLIP_DEVIATION), (vae, (0.5,) * 3, (0.8,) * 3)):
        for name, wanted in (("image_mean", means), ("image_std", deviations)):
            if any(abs(a - b) > 1e-4 for a, b in zip(file.floats(name, 3), wanted, strict=True)):
                raise file.wrong(name, ", ".join(map(str, wanted)))
        file.require("do_center_crop", True, missing=True)
        file.require("do_normalize", True, missing=True)
    side, image_size = crop_size(clip), vision_encoder.integer("image_size")
    if side != image_size:
        raise clip.wrong("crop_size", f"{image_size}, the image_size of the vision encoder,")
    crop_size(vae)


def crop_size(extractor: JsonFile) -> int:
    """Side in pixels of the square that an image processor cuts out; older files say one number."""
    size = extractor.values.get("crop_size")
    sides = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if sides[0] != sides[1] or type(sides[0]) is not int or not 1 <= sides[0] <= 1 << 14:
        raise extractor.wrong("crop_size", "a square")
    return sides[0]


def _loaded(name: str) -> str:
    return "a scheduler" if name == "scheduler" else _CLASSES[name][0]


def _check_class(config: JsonFile, name: str) -> None:
    kind = NETWORKS[name].kind
    if NETWORKS[name].stem == DIFFUSERS:
        config.require("_class_name", kind)
    elif config.values.get("architectures") is not None and config.values["architectures"] != [kind]:
        raise config.wrong("architectures", f"['{kind}']")


def _known(width: int) -> str:
    return {768: " (as in SD 1.5)", 1024: " (as in SD 2.1)"}.get(width, "")


def _check_shapes(component: str, needed: blueprint.Blueprint, config: Path, found: Weights) -> None:
    given = {_canonical(component, name): one.shape for name, one in found.tensors.items()}
    mend = f"give weights and {config.name} that belong together"
    for name, shape in needed.items():
        if name not in given:
            raise InputError(f"{found.path} lacks {name}, which {config} asks for", mend)
        if given[name] != shape:
            raise InputError(
                f"{found.path} holds {name} of shape {list(given[name])}, and {config} asks for {list(shape)}", mend
            )
    if extra := sorted(given.keys() - needed.keys() - {_COUNT}):
        raise InputError(f"{found.path} holds {shown(extra[0])}, which {config} does not ask for", mend)


def _check_precision(component: str, needed: blueprint.Blueprint, found: Weights, half: bool) -> None:
    stored = {one.dtype for name, one in found.tensors.items() if _canonical(component, name) in needed}
    spelled = " and ".join(sorted(_PRECISIONS.get(dtype, dtype) for dtype in stored))
    if len(stored) > 1 or not stored <= _PRECISIONS.keys():
        raise InputError(f"{found.path} holds {spelled} weights", "one of float32, float16 and bfloat16 is wanted")
    if component == "unet" and stored != {"F32"} and not half:
        raise InputError(
            f"{found.path} holds {spelled} weights, the run trains float32 copies of them",
            "get the full-precision file, or say model.accept_half=true",
        )


def _canonical(component: str, name: str) -> str:
    """The name that the blueprint knows a stored tensor by."""
    if component == "vae" and ".attentions." in name:
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name.removeprefix("text_model.").removeprefix("vision_model.")


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
