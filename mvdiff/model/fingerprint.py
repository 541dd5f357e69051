"""All that a recording of a module's operations follows from, as a short key.

In it are the code, the module with every attribute of its parts, what it is given, and torch's settings. What cannot be
told has no key, so two equal keys mean equal recordings, but for a variable of a library's module that somebody sets.
"""

import enum
import functools
import hashlib
import json
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._inductor
from torch import Tensor, nn

_REGISTERED = ("_parameters", "_buffers", "_modules")
"""Of a module's attributes those that are told as tensors and modules of their own."""
_ORIGIN = ("_name_or_path", "_use_default_values", "_diffusers_version")
"""Keys of a configuration that say how it came about."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, np.generic)


class _Untold(Exception):
    """Something whose value cannot be told."""


def fingerprint(module: nn.Module, given: Any, opaque: tuple[type, ...] = ()) -> str | None:
    """Key of what ``module`` does with what ``given`` describes; None where that cannot be told.

    Of weights only shapes and types count. Attributes of a type that is ``opaque`` are known not to matter.
    """
    teller = _Teller(module, opaque)
    try:
        said = [teller.tree(), teller.tell(given), teller.tell(_settings())]
    except _Untold:
        return None
    own = Path(__file__).parent.glob("*.py")
    sources = sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in {*own, *teller.sources})
    return hashlib.sha256(json.dumps([said, sources]).encode()).hexdigest()


def _settings() -> list[Any]:
    """Those of torch by which it chooses operations and kernels; versions and hardware are in the cache's name."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return [
        torch._inductor.config.save_config_portable(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        [cuda.matmul.allow_tf32, cuda.matmul.allow_bf16_reduced_precision_reduction,
         cuda.matmul.allow_fp16_reduced_precision_reduction],
        [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled()],
        [cudnn.version(), cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32],
    ]  # fmt: skip


class _Teller:
    """Says in JSON what an object is."""

    def __init__(self, module: nn.Module, opaque: tuple[type, ...]) -> None:
        self.sources: set[Path] = set()
        """Files of the classes and functions that were met."""
        self._opaque = opaque
        self._module = module
        self._names = {id(part): name for name, part in module.named_modules()}
        self._within: set[int] = set()

    def tree(self) -> list[Any]:
        """The module's parts, and its tensors."""
        tensors = [*self._module.named_parameters(), *self._module.named_buffers()]
        return [
            *([name, self._named(type(part)), self._attributes(part)] for name, part in self._module.named_modules()),
            *([name, self._named(type(one)), *self._tensor(one)] for name, one in tensors),
        ]

    def tell(self, value: Any) -> Any:
        """``value``, or ``_Untold``."""
        if isinstance(value, self._opaque):
            return "opaque"
        if isinstance(value, enum.Enum):
            return [self._named(type(value)), value.name]
        if isinstance(value, _PLAIN):
            return [type(value).__name__, repr(value)]
        if isinstance(value, type):
            return self._named(value)
        if isinstance(value, nn.Module):
            if id(value) not in self._names:
                raise _Untold
            return ["part", self._names[id(value)]]
        if isinstance(value, Tensor) or id(value) in self._within:
            raise _Untold
        self._within.add(id(value))
        try:
            return self._composed(value)
        finally:
            self._within.remove(id(value))

    def _composed(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            told = [[self.tell(key), self.tell(one)] for key, one in value.items() if key not in _ORIGIN]
            return [self._named(type(value)), told]
        if isinstance(value, set | frozenset):
            return [self._named(type(value)), sorted(json.dumps(self.tell(one)) for one in value)]
        if isinstance(value, Sequence):
            return [self._named(type(value)), [self.tell(one) for one in value]]
        if isinstance(value, types.FunctionType):
            code, cells = value.__code__, [cell.cell_contents for cell in value.__closure__ or ()]
            # two of one file may have the same name
            body = [
                code.co_firstlineno,
                code.co_code.hex(),
                [repr(one) for one in code.co_consts if type(one) in _PLAIN],
            ]
            return [self._named(value), body, *map(self.tell, (cells, value.__defaults__, value.__kwdefaults__))]
        if isinstance(value, types.MethodType):
            return ["method", self.tell(value.__func__), self.tell(value.__self__)]
        if isinstance(value, types.BuiltinFunctionType):
            return [value.__module__, value.__qualname__]
        if isinstance(value, functools.partial):
            return ["partial", *map(self.tell, (value.func, value.args, value.keywords))]
        if hasattr(value, "__dict__") and not isinstance(value, types.ModuleType):
            return [self._named(type(value)), self.tell(vars(value))]
        raise _Untold

    def _attributes(self, part: nn.Module) -> Any:
        return self.tell({name: value for name, value in vars(part).items() if name not in _REGISTERED})

    @staticmethod
    def _tensor(one: Tensor) -> list[Any]:
        return [list(one.shape), list(one.stride()), str(one.dtype), str(one.device)]

    def _named(self, kind: Any) -> list[str]:
        """A class or a function, whose source counts; torch's own is known by its version."""
        module = sys.modules.get(kind.__module__)
        if kind.__module__.split(".")[0] not in ("torch", "builtins", "collections", "numpy"):
            file = getattr(module, "__file__", None)
            if file is None:
                raise _Untold
            self.sources.add(Path(file))
        return [kind.__module__, kind.__qualname__]
