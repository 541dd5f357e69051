"""Inductor's kernels of recorded operations, kept in the node's cache of compiled code."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch._inductor
from torch import Tensor
from torch._dynamo.utils import counters
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from mvdiff.model.compilation import LOADED, OPTIONS

_PATCHES: dict[str, Any] = {
    **OPTIONS,
    # unless told otherwise it runs every kernel on random data first, as if it chose among several
    "triton.autotune_at_compile_time": None,
}


def kernels(graph: GraphModule, dataless: list[Tensor]) -> Callable[..., list[Tensor]]:
    """What runs as ``graph`` does on tensors like ``dataless``."""
    inputs: list[Any] = [*dataless]
    return torch._inductor.standalone_compile(
        graph, inputs, dynamic_shapes="from_example_inputs", options={"config_patches": _PATCHES}, aot=True
    )


def keep(key: str, made: Callable[..., list[Tensor]], structure: pytree.TreeSpec) -> None:
    """Let ``load`` find ``made``, which ``kernels`` returned, by ``key``; ``structure`` is that of what it returns."""
    # on a full disk, or for a structure that cannot be written, those at hand are as good
    with suppress(Exception):
        written = pytree.treespec_dumps(structure)
        if pytree.treespec_loads(written) == structure:
            kept = _file(key)
            kept.parent.mkdir(exist_ok=True)
            kept.with_suffix(".json").write_text(written)
            # whole or not at all, and last: where it is, the structure is
            made.save(path=str(kept))  # type: ignore[attr-defined]


def load(key: str) -> tuple[Callable[..., list[Tensor]], pytree.TreeSpec] | None:
    """Kernels and structure of what they return; None where none are kept, or damaged ones."""
    with suppress(Exception), torch._inductor.config.patch(_PATCHES):
        kept = _file(key)
        structure = pytree.treespec_loads(kept.with_suffix(".json").read_text())
        found = torch._inductor.CompiledArtifact.load(path=str(kept))
        counters[LOADED]["graphs"] += 1
        return found, structure
    return None


def _file(key: str) -> Path:
    """In the folder that a ``CompileCache`` names: torch's own choice may be another user's."""
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "recorded", f"{key}.kernels")
