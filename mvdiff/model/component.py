"""One component of a model on disk: loaded as a whole or refused in one line."""

from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from mvdiff.errors import InputError

with torch.device("meta"):
    # torch looks up once, in the first such block, which functions make tensors. transformers puts another linspace in
    # its place while it loads (5.x, initialization.py), and no later block would know the real one.
    torch.empty(0)


def read_component(path: Path, kind: Any) -> Any:
    """The component of the class ``kind`` in the folder ``path``.

    Raises ``InputError`` where it is missing or damaged, or its weights are not just those of its configuration.
    """
    if not path.is_dir():
        raise InputError(f"the model lacks its folder {path}", "give a complete checkpoint")
    options: dict[str, Any] = {"local_files_only": True}
    schedule = issubclass(kind, SchedulerMixin)
    if not schedule:
        options |= {"use_safetensors": True, "output_loading_info": True}
        # transformers loads weights as they are stored, diffusers as float32
        options |= {"dtype": torch.float32} if issubclass(kind, PreTrainedModel) else {"low_cpu_mem_usage": False}
    shown = logging.is_progress_bar_enabled()
    try:
        # a bar for every component says nothing that a person waits for
        logging.disable_progress_bar()
        loaded = kind.from_pretrained(path, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} does not load ({line(error)})", "give an undamaged checkpoint") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    if schedule:
        return loaded
    # Weights that a file lacks are drawn at random, with no more than a warning: ask what was found.
    component, found = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            raise InputError(
                f"weights of {path} do not fit: {what.replace('_', ' ')} {', '.join(map(str, list(found[what])[:3]))}",
                "give an undamaged checkpoint, of the same version of this program",
            )
    return component


def line(error: BaseException) -> str:
    """What ``error`` says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
