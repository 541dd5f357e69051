"""Inference compiled without torch's tracer of Python, which takes longer than all else of a start from a warm cache.

``torch.compile`` reads a module's bytecode in every process before it knows what to look for in its cache: 20 s for a
large UNet. Here the module is run once on tensors without data, which records the same operations in 2 s and has the
same kernels; and these are kept by what the recording follows from, so that later processes load them without one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from mvdiff.model.fingerprint import fingerprint
from mvdiff.model.kernels import keep, kernels, load


class Precompiled:
    """``function`` of a module and further arguments, run as kernels that are made for each shape of those.

    It must be a function of the module's tensors and of what it is given, and nothing else: tensors, alone or in
    tuples, lists and dicts, and values such as flags, each of which is compiled for by itself. It returns tensors in
    the same manner. Where gradients are wanted, ``function`` runs as it is. The module's tensors may be given other
    values or be replaced by others of the same shape and type; its parts and their attributes stay what they are.
    """

    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        self._bound = _Bound(function, module)
        self._made: dict[Any, _Kernels] = {}

    def __call__(self, *args: Any) -> Any:
        """``function(module, *args)``."""
        if torch.is_grad_enabled():
            return self._bound(*args)
        leaves, structure = pytree.tree_flatten(args)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # of values that are equal, as 1 and True are, each type is recorded by itself
        shapes = tuple(_shape(leaf) if isinstance(leaf, Tensor) else (type(leaf), leaf) for leaf in leaves)
        # what autocast says is recorded too
        kinds = sorted({one.device.type for one in tensors})
        autocast = tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        key = (shapes, structure, autocast)
        if key not in self._made:
            self._made[key] = _Kernels(self._bound, leaves, structure, (str(structure), shapes, autocast))
        return self._made[key](tensors)


class _Bound(nn.Module):
    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, *args: Any) -> Any:
        return self.function(self.module, *args)


class _Kernels:
    """Those for one shape of arguments, which ``described`` tells from others."""

    def __init__(self, bound: _Bound, leaves: list[Any], structure: pytree.TreeSpec, described: Any) -> None:
        named = dict([*bound.named_parameters(), *bound.named_buffers()])
        self._places = [_place(bound, name) for name in named]
        key = fingerprint(bound, described, opaque=(Precompiled,))
        kept = load(key) if key is not None else None
        if kept is not None:
            self._run, self._structure = kept
            return

        def run(*tensors: Tensor) -> list[Tensor]:
            own, rest = tensors[: len(named)], iter(tensors[len(named) :])
            args = pytree.tree_unflatten(
                [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
            )
            found = functional_call(bound, dict(zip(named, own, strict=True)), args)
            flat, self._structure = pytree.tree_flatten(found)
            return flat

        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # inference tensors cannot be recorded
        with torch.inference_mode(False), torch.no_grad():
            with FakeTensorMode():
                dataless = [
                    torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=one.device)
                    for one in [*named.values(), *given]
                ]
                graph = make_fx(run)(*dataless)
            self._run = kernels(graph, dataless)
        # a tensor that is neither given nor the module's is part of such kernels, whatever its value is next time
        if key is not None and not any(node.op == "get_attr" for node in graph.graph.nodes):
            keep(key, self._run, self._structure)

    def __call__(self, tensors: list[Tensor]) -> Any:
        own = [tensors_of[name] for tensors_of, name in self._places]
        return pytree.tree_unflatten(list(self._run(*own, *tensors)), self._structure)


def _place(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where ``module`` keeps the tensor ``name``, to look it up again without a walk through all of it."""
    path, _, own = name.rpartition(".")
    holder = module.get_submodule(path)
    return holder._parameters if own in holder._parameters else holder._buffers, own


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
