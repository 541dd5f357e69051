"""Inference compiled without torch's tracer of Python, which takes longer than all else of a start from a warm cache.

``torch.compile`` reads a module's bytecode in every process before it knows what to look for in its cache: 20 s for a
large UNet. Here the module is run once on tensors without data, which records the same operations in 2 s and has the
same kernels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from mvdiff.model.compilation import OPTIONS

_as_it_is: ContextVar[bool] = ContextVar("as_it_is", default=False)


@contextmanager
def uncompiled() -> Iterator[None]:
    """For a pass of another shape that is made once and kept: to compile for it takes longer than it ever saves."""
    token = _as_it_is.set(True)
    try:
        # for what torch.compile has compiled
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        _as_it_is.reset(token)


class Precompiled:
    """``function`` of a module and further arguments, run as kernels that are made for each shape of those.

    It must be a function of the module's tensors and of what it is given, and nothing else: tensors, alone or in
    tuples, lists and dicts, and values such as flags, each of which is compiled for by itself. It returns tensors in
    the same manner. Where gradients are wanted, ``function`` runs as it is. The module's tensors may be given other
    values or be replaced by others of the same shape and type.
    """

    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        self._bound = _Bound(function, module)
        self._made: dict[Any, _Kernels] = {}

    def __call__(self, *args: Any) -> Any:
        """``function(module, *args)``."""
        if _as_it_is.get() or torch.is_grad_enabled():
            return self._bound(*args)
        leaves, structure = pytree.tree_flatten(args)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        shapes = tuple(_shape(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        # what autocast says is recorded too
        kinds = sorted({one.device.type for one in tensors})
        autocast = tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        key = (shapes, structure, autocast)
        if key not in self._made:
            self._made[key] = _Kernels(self._bound, leaves, structure)
        return self._made[key](tensors)


class _Bound(nn.Module):
    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, *args: Any) -> Any:
        return self.function(self.module, *args)


class _Kernels:
    """Those for one shape of arguments."""

    def __init__(self, bound: _Bound, leaves: list[Any], structure: pytree.TreeSpec) -> None:
        named = dict([*bound.named_parameters(), *bound.named_buffers()])
        self._places = [_place(bound, name) for name in named]
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def run(*tensors: Tensor) -> list[Tensor]:
            own, rest = tensors[: len(named)], iter(tensors[len(named) :])
            args = pytree.tree_unflatten(
                [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
            )
            found = functional_call(bound, dict(zip(named, own, strict=True)), args)
            flat, self._structure = pytree.tree_flatten(found)
            return flat

        # inference tensors cannot be recorded
        with torch.inference_mode(False), torch.no_grad():
            with FakeTensorMode():
                dataless = [
                    torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=one.device)
                    for one in [*named.values(), *given]
                ]
                graph = make_fx(run)(*dataless)
            self._run = kernels(graph, dataless)

    def __call__(self, tensors: list[Tensor]) -> Any:
        own = [tensors_of[name] for tensors_of, name in self._places]
        return pytree.tree_unflatten(list(self._run(*own, *tensors)), self._structure)


def _place(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where ``module`` keeps the tensor ``name``, to look it up again without a walk through all of it."""
    path, _, own = name.rpartition(".")
    holder = module.get_submodule(path)
    return holder._parameters if own in holder._parameters else holder._buffers, own


def kernels(graph: GraphModule, dataless: list[Tensor]) -> Callable[..., Any]:
    """Inductor's kernels for ``graph``, from the cache where there are some."""
    inputs: list[Any] = [*dataless]
    # unless told otherwise it runs every kernel on random data first, as if it chose among several
    patches = {**OPTIONS, "triton.autotune_at_compile_time": None}
    return torch._inductor.standalone_compile(
        graph, inputs, dynamic_shapes="from_example_inputs", options={"config_patches": patches}
    )


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
