"""Weights to start from: found on this machine and judged without loading them.

All of it is told from JSON files and the headers of weight files, so that a submission answers at once and a job never
waits in a queue for a folder that does not load. Nothing here asks the network.
"""

import copy
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from mvdiff.errors import InputError
from mvdiff.model.index import INDEX
from mvdiff.model.pretrained import conformity
from mvdiff.model.pretrained.jsonfile import JsonFile, shown
from mvdiff.model.pretrained.weightfile import DIFFUSERS, TRANSFORMERS, Weights

Kind = Literal["zero123plus", "stable-diffusion", "mvdiff"]

KINDS: dict[str, Kind] = {
    "Zero123PlusPipeline": "zero123plus",
    "StableDiffusionPipeline": "stable-diffusion",
    "MultiViewPipeline": "mvdiff",
}
"""What loads, by the class that ``model_index.json`` names."""

_WRITERS = ("transformers_version", "torch_dtype", "dtype", "architectures")

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{6,64}")
_COMPONENT = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Pretrained:
    """A folder of weights that fits."""

    folder: Path
    kind: Kind
    index: dict[str, Any] = field(repr=False)
    """The content of its ``model_index.json``."""
    ramp: tuple[float, ...] | None
    """The weight of the image embedding in each token of the prompt; None where the weights know no image embedding."""
    condition_size: int | None
    """Side in pixels of the condition that a zero123plus was trained with; None for the other kinds."""
    weights: Mapping[str, Weights] = field(repr=False)
    """What the weight files' headers say, by component."""
    configs: Mapping[str, JsonFile] = field(repr=False)

    @property
    def name(self) -> str:
        """What people call it: its name in the hub cache, else its folder's."""
        repository = self.folder.parent.parent.name
        if self.folder.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.removeprefix("models--").replace("--", "/")
        return self.folder.name

    def config(self, component: str) -> dict[str, Any]:
        """The configuration of a component: what its JSON file says."""
        return copy.deepcopy(dict(self.configs[component].values))

    def fingerprint(self) -> str:
        """Names the weights, wherever the folder lies: 32 hexadecimal digits.

        xxh3_128 over the weight files' names, their headers with 12 KiB of every tensor, and what else decides the
        model: configurations, vocabulary, index. Weights trained otherwise have another fingerprint; a flipped bit in
        a large tensor is not what it finds.
        """
        hasher = xxhash.xxh3_128()
        files = {file.path: file for weights in self.weights.values() for file in weights.files}
        others = [path for path in self.folder.glob("*/*") if path.suffix in (".json", ".txt")]
        for path in sorted({*files, *others, self.folder / INDEX}):
            hasher.update(f"{path.relative_to(self.folder).as_posix()}\n".encode())
            try:
                for block in files[path].sample() if path in files else [_content(path)]:
                    hasher.update(block)
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror})", "make it readable") from None
        return hasher.hexdigest()


def _content(path: Path) -> bytes:
    """The file without what says only which program wrote it."""
    content = path.read_bytes()
    with suppress(ValueError):
        values = json.loads(content)
        if isinstance(values, dict):
            kept = {key: value for key, value in values.items() if not key.startswith("_") and key not in _WRITERS}
            return json.dumps(kept, sort_keys=True).encode()
    return content


def find(name: str) -> Path:
    """The folder that ``model.pretrained=name`` means: a path, or OWNER/NAME of a model in the local hub cache.

    A folder of that name is preferred. ``InputError`` where there is neither; whether the folder holds a model is what
    ``inspect`` tells.
    """
    if not name.strip() or not name.isprintable():
        raise InputError(f"model.pretrained={shown(name)} is no path", f"give the folder that holds {INDEX}")
    asked = f"model.pretrained={name}"
    try:
        folder = Path(name).expanduser().absolute()
        if folder.is_dir():
            return folder
        if folder.exists():
            raise InputError(f"{asked}: {folder} is a file", f"give the folder that holds {INDEX}")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{asked} is no path ({error})", f"give the folder that holds {INDEX}") from None
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"{asked}: there is no folder {folder}",
            f"give one that holds {INDEX}, or OWNER/NAME of a model in the hub cache {_hub_cache()}",
        )
    return _cached(name, asked, folder)


def inspect(folder: Path, *, half: bool) -> Pretrained:
    """Judge the model in ``folder``; ``InputError`` at the first thing that would keep it from training.

    ``half``: the UNet's weights may be stored in half precision, although float32 copies of them are trained.
    """
    try:
        return _inspected(folder, half)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror})", "make it readable") from None


def _inspected(folder: Path, half: bool) -> Pretrained:
    if not (folder / INDEX).is_file():
        raise InputError(f"no model in {folder}", f"give a folder in diffusers' layout, the one that holds {INDEX}")
    index = JsonFile.read(folder / INDEX)
    named = index.values.get("_class_name")
    kind = KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        raise InputError(f"{index.path} names the class {shown(named)}", f"{', '.join(KINDS)} are the three that load")
    if kind == "mvdiff":
        configs, weights = _read_own(index)
        return Pretrained(folder, kind, dict(index.values), None, None, weights, configs)
    plus = kind == "zero123plus"
    configs = conformity.read_configs(index, conformity.ZERO123PLUS if plus else conformity.STABLE_DIFFUSION)
    conformity.check_scheduler(configs["scheduler"], ("linear",) if plus else ("linear", "scaled_linear"))
    conformity.check_tokenizer(folder / "tokenizer", configs["text_encoder"])
    ramp = condition_size = None
    if plus:
        ramp = index.floats("ramping_coefficients", conformity.PROMPT_TOKENS)
        extractors = configs["feature_extractor_clip"], configs["feature_extractor_vae"]
        conformity.check_sight(*extractors, configs["vision_encoder"])
        condition_size = conformity.crop_size(extractors[1])
    networks = {name: network for name, network in conformity.NETWORKS.items() if name in configs}
    weights = {name: Weights.find(folder / name, network.stem) for name, network in networks.items()}
    conformity.check_networks(configs, weights, half)
    return Pretrained(folder, kind, dict(index.values), ramp, condition_size, weights, configs)


def _read_own(index: JsonFile) -> tuple[dict[str, JsonFile], dict[str, Weights]]:
    """Configurations and weights of a model that this program has written."""
    mend = "give a complete checkpoint"
    if not isinstance(index.values.get("settings"), dict):
        raise index.wrong("settings", "what this program writes there")
    configs, weights = {}, {}
    for name, entry in index.values.items():
        match entry:
            case [str(library), str(kind)]:
                pass
            case _:
                continue
        if not _COMPONENT.fullmatch(name):
            raise InputError(f"{index.path} names a component {shown(name)}", "a plain word is wanted")
        folder = index.path.parent / name
        if not folder.is_dir():
            raise InputError(f"the model lacks its folder {folder}", mend)
        configs[name] = JsonFile.read(folder / conformity.config_name(kind))
        if configs[name].path.name == "config.json":
            weights[name] = Weights.find(folder, TRANSFORMERS if library == "transformers" else DIFFUSERS)
    if "unet" not in weights:
        raise InputError(f"{index.path} names no unet", mend)
    return configs, weights


def _hub_cache() -> Path:
    """Where huggingface_hub keeps what it has downloaded: the same variables in the same order."""
    said = os.environ.get
    home = Path(said("HF_HOME") or Path(said("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = said("HF_HUB_CACHE") or said("HUGGINGFACE_HUB_CACHE") or str(home / "hub")
    return Path(os.path.expandvars(cache)).expanduser().absolute()


def _cached(name: str, asked: str, folder: Path) -> Path:
    cache = _hub_cache()
    model = cache / f"models--{name.replace('/', '--')}"
    mend = f"download it on a machine with a network (hf download {name}), or give a folder"
    try:
        if not model.is_dir():
            raise InputError(
                f"{asked}: there is no folder {folder}, and no {model.name} in the hub cache {cache}", mend
            )
        main = model / "refs" / "main"
        snapshots = sorted(path.name for path in (model / "snapshots").glob("*") if path.is_dir())
        # Without a branch (a download of one commit), the only snapshot there is can be the only one meant.
        commit = main.read_text().strip() if main.is_file() else snapshots[0] if len(snapshots) == 1 else None
    except (OSError, ValueError) as error:
        raise InputError(f"{asked}: {model} cannot be read ({error})", mend) from None
    if commit is None and snapshots:
        raise InputError(f"{asked}: {model} holds {len(snapshots)} snapshots and says not which is main", mend)
    if commit is None or not _COMMIT.fullmatch(commit) or commit not in snapshots:
        raise InputError(f"{asked}: {model} holds no snapshot of main", mend)
    return model / "snapshots" / commit
