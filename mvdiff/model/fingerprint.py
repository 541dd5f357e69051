"""All that a recording of a module's operations follows from, as a short key.

In it are the code, the module with every attribute of its parts, what it is given, and torch's settings. What cannot be
told for certain has no key, so two equal keys mean equal recordings; but variables of modules that somebody sets, and
what code reads from the environment, are not seen.
"""

import enum
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import sys
import time
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._functorch.config
import torch._inductor
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as modules
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from mvdiff.process import started

_REGISTERED = ("_parameters", "_buffers", "_modules")
"""Of a module's attributes those that are told by the names of what is in them."""
_ORIGIN = ("_name_or_path", "_use_default_values", "_diffusers_version")
"""Keys of a configuration that say how it came about."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, range, slice)
_PASSES = (
    "pre_grad_custom_pass", "joint_custom_pre_pass", "joint_custom_post_pass", "post_grad_custom_pre_pass",
    "post_grad_custom_post_pass",
)  # fmt: skip
"""Inductor's settings that hold somebody's code."""
_TORCH = ("torch", "numpy")
_LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "huggingface_hub")
"""Packages of which a version says all but for the files that somebody has edited, and those are told."""


class _Untold(Exception):
    """Something whose value cannot be told."""


def fingerprint(module: nn.Module, given: Any, opaque: tuple[type, ...] = ()) -> str | None:
    """Key of what ``module`` does with what ``given`` describes; None where that cannot be told.

    Of weights only shapes and types count. Attributes of a type that is ``opaque`` are known not to matter.
    """
    try:
        teller = _Teller(module, opaque)
        said = [teller.tree(), teller.tell(given), teller.tell(_settings())]
        return hashlib.sha256(json.dumps([said, teller.sources()]).encode()).hexdigest()
    # of foreign objects anything may fail when they are asked, and then they cannot be told
    except Exception:
        return None


def _settings() -> list[Any]:
    """Those of torch by which it chooses operations and kernels; versions and hardware are in the cache's name."""
    inductor, cuda = torch._inductor.config, torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    functions = [one for one in vars(functional).values() if callable(one)]
    replaced = [one for one in functions if not _versioned(getattr(one, "__module__", None) or "torch")]
    if any(getattr(inductor, name, None) for name in _PASSES) or replaced or modules._has_any_global_hook():
        raise _Untold
    if _get_current_function_mode() is not None or _get_current_dispatch_mode() is not None:
        raise _Untold
    return [
        inductor.save_config_portable(),
        torch._functorch.config.save_config_portable(),
        [torch.get_default_dtype(), torch.get_default_device(), torch.are_deterministic_algorithms_enabled()],
        [one.fp32_precision for one in (torch.backends, cuda.matmul, cudnn, cudnn.conv, mkldnn, mkldnn.matmul)],
        [cuda.matmul.allow_bf16_reduced_precision_reduction, cuda.matmul.allow_fp16_reduced_precision_reduction],
        [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled(),
         cuda.fp16_bf16_reduction_math_sdp_allowed(), torch._C._get_sdp_priority_order()],
        [cudnn.version(), cudnn.enabled, cudnn.benchmark, cudnn.deterministic, mkldnn.enabled],
    ]  # fmt: skip


def _versioned(module: str) -> bool:
    """Whether a Python module comes with torch or Python, of which the cache's name says the versions."""
    package = module.split(".")[0]
    return package in _TORCH or (package in sys.stdlib_module_names and package != "__main__")


class _Teller:
    """Says in JSON what an object is."""

    def __init__(self, module: nn.Module, opaque: tuple[type, ...]) -> None:
        self._opaque = opaque
        self._module = module
        # the first name of each, should it have several
        self._names = {id(part): name for name, part in reversed([*module.named_modules(remove_duplicate=False)])}
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self._tensors = {id(one): name for name, one in reversed(tensors)}
        self._within: set[int] = set()
        self._kinds: dict[type, str] = {}
        self._files = {Path(__file__)}
        self._packages: set[str] = set()

    def tree(self) -> list[Any]:
        """The module's parts, and its tensors."""
        told = [[name, self._kind(type(part)), self._part(part)] for name, part in self._module.named_modules()]
        for name, one in [*self._module.named_parameters(), *self._module.named_buffers()]:
            if type(one) not in (Tensor, nn.Parameter, nn.Buffer):
                raise _Untold
            told.append([name, list(one.shape), list(one.stride()), str(one.dtype), str(one.device)])
        return told

    def sources(self) -> list[Any]:
        """Code that was met: libraries by their versions too, other code with what lies beside it."""
        files = set(self._files)
        for file in self._files:
            if not any(f"/{library}/" in file.as_posix() for library in _LIBRARIES):
                files |= set(file.parent.glob("[!.#]*.py"))
        born = _born()
        for file in files:
            found = file.stat()
            if max(found.st_mtime, found.st_ctime) > born:
                raise _Untold  # what was imported may have been what it was before
        said = sorted((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)
        return [said, [(name, importlib.metadata.version(name)) for name in sorted(self._packages)]]

    def tell(self, value: Any) -> Any:
        """``value``, or ``_Untold``."""
        if isinstance(value, self._opaque):
            return "opaque"
        if type(value) in _PLAIN or isinstance(value, np.generic):
            return [type(value).__name__, repr(value)]
        if isinstance(value, type):
            return self._kind(value)
        if isinstance(value, nn.Module):
            return ["part", self._names[id(value)]]
        if isinstance(value, Tensor) or id(value) in self._within:
            raise _Untold
        self._within.add(id(value))
        try:
            return self._composed(value)
        finally:
            self._within.remove(id(value))

    def _composed(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, enum.Enum):
            return [self._kind(kind), value.name]
        if isinstance(value, Mapping):
            if kind is not dict and kind is not OrderedDict and not hasattr(value, "__dict__"):
                raise _Untold
            told = [[self.tell(key), self.tell(one)] for key, one in value.items() if key not in _ORIGIN]
            # of a configuration's own attributes, which repeat its keys
            more = {} if kind in (dict, OrderedDict) else {k: v for k, v in vars(value).items() if k not in value}
            return [self._kind(kind), told, self.tell(more) if more else []]
        if kind in (set, frozenset):
            return [kind.__name__, sorted(json.dumps(self.tell(one)) for one in value)]
        if kind in (list, tuple):
            return [kind.__name__, [self.tell(one) for one in value]]
        if kind is types.FunctionType:
            return self._function(value)
        if kind is types.MethodType:
            return ["method", self.tell(value.__func__), self.tell(value.__self__)]
        if kind is types.BuiltinFunctionType and (
            value.__self__ is None or isinstance(value.__self__, types.ModuleType)
        ):
            return [value.__module__, value.__qualname__]
        if kind is functools.partial:
            return ["partial", *map(self.tell, (value.func, value.args, value.keywords))]
        if kind.__basicsize__ == _Bare.__basicsize__:
            return [self._kind(kind), self.tell(vars(value))]
        raise _Untold

    def _part(self, part: nn.Module) -> Any:
        """A part's attributes; of those that are registered where they stand, since one may stand in several places."""
        own = {name: value for name, value in vars(part).items() if name not in _REGISTERED}
        parts = [[name, None if one is None else self._names[id(one)]] for name, one in part._modules.items()]
        tensors = [
            [name, None if one is None else self._tensors[id(one)]]
            for name, one in [*part._parameters.items(), ("", None), *part._buffers.items()]
        ]
        return [self.tell(dict(sorted(own.items()))), parts, tensors]

    def _function(self, function: types.FunctionType) -> Any:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        held = (cells, function.__defaults__, function.__kwdefaults__, vars(function))
        # two of one file may have the same name
        return [self._code(_home(function)), list(_body(function.__code__)), *map(self.tell, held)]

    def _kind(self, kind: type) -> Any:
        """A class: what it has from elsewhere, and what was set in it."""
        if kind not in self._kinds:
            self._kinds[kind] = ""  # which a method of it may hold too
            entries = json.dumps([self._entries(one) for one in kind.__mro__])
            self._kinds[kind] = hashlib.sha256(entries.encode()).hexdigest()
        return [self._code(kind.__module__), kind.__qualname__, self._kinds[kind]]

    def _entries(self, kind: type) -> list[Any]:
        told: list[Any] = [self._code(kind.__module__), kind.__qualname__]
        for name, entry in sorted(vars(kind).items()):
            entry = getattr(entry, "__func__", getattr(entry, "fget", entry))
            if isinstance(entry, types.FunctionType):
                told.append([name, *(self._method(kind, name, one) for one in _unwrapped(entry))])
            elif type(entry) in _PLAIN and not name.startswith("__"):
                told.append([name, self.tell(entry)])
        return told

    def _method(self, kind: type, name: str, function: types.FunctionType) -> Any:
        home = _home(function)
        if home.split(".")[0] in (*_TORCH, *_LIBRARIES):
            return self._code(home)
        if home == kind.__module__ and function.__qualname__ == f"{kind.__qualname__}.{name}":
            # as the file has it, but for what a class made by a function holds
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            return [self.tell(cell.cell_contents) for variable, cell in cells if variable != "__class__"]
        return self.tell(function)

    def _code(self, name: str) -> str:
        """The module ``name``, whose source counts; what torch and Python bring is known by their versions."""
        if not _versioned(name):
            self._files.add(Path(inspect.getfile(sys.modules[name])))
            package = name.split(".")[0]
            if package in _LIBRARIES:
                self._packages.add(package)
        return name


def _home(function: types.FunctionType) -> str:
    """The module whose code it is, whatever a decorator has made it say."""
    return str(function.__globals__["__name__"])


def _unwrapped(function: Any) -> Iterator[types.FunctionType]:
    while isinstance(function, types.FunctionType):
        yield function
        function = vars(function).get("__wrapped__")


class _Bare:
    """Instances of a class as large as this one's hold nothing but their attributes."""


def _body(code: types.CodeType) -> Iterator[Any]:
    """What ``code`` does, that of functions within it too."""
    yield [code.co_firstlineno, code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars]
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield list(_body(one))
        else:
            yield sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)


@functools.cache
def _born() -> float:
    """When this process began, in seconds since the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + started(os.getpid()) / os.sysconf("SC_CLK_TCK")
