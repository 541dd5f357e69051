"""What a saved model says of itself, read without loading it."""

import json
from pathlib import Path
from typing import Any

from mvdiff.errors import InputError
from mvdiff.model.settings import ModelSettings

INDEX = "model_index.json"


def read_index(folder: Path) -> dict[str, Any]:
    """The content of ``folder/model_index.json``; ``InputError`` where there is no model or its index is damaged."""
    file = folder / INDEX
    if not file.is_file():
        raise InputError(f"no model in {folder}", f"give a checkpoint folder, the one that holds {INDEX}")
    return _read(file, "model's index")


def stored_timesteps(folder: Path) -> int:
    """Length of the noise schedule of the model saved in ``folder``; ``InputError`` where it does not say."""
    try:
        return int(_schedule(folder)["num_train_timesteps"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder} names no length of its noise schedule", "give an undamaged checkpoint") from None


def ends_in_noise(folder: Path) -> bool:
    """Whether the noise schedule of the model saved in ``folder`` ends without any signal (Lin et al. 2023)."""
    return bool(_schedule(folder).get("rescale_betas_zero_snr"))


def _schedule(folder: Path) -> dict[str, Any]:
    return _read(folder / "scheduler" / "scheduler_config.json", "noise schedule")


def _read(file: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error})", "give an undamaged checkpoint") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is no {what}", "give an undamaged checkpoint")
    return content


def stored_settings(folder: Path) -> ModelSettings:
    """Settings of the model saved in ``folder``; ``InputError`` as for ``read_index``."""
    return ModelSettings.read(read_index(folder).get("settings", {}))
