"""A GPU's part played on meta tensors: shapes, types and lifetimes as CUDA would have them, and no values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

_FLAG = "cpu"
"""Of which device autocast is switched on: it leaves meta tensors alone, and ``torch.utils.checkpoint`` restores it
when it computes activations again."""

_LOWER = frozenset(
    {
        functional.linear,
        functional.conv2d,
        functional.conv_transpose2d,
        functional.scaled_dot_product_attention,
        torch.matmul,
        Tensor.matmul,
        Tensor.__matmul__,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
    }
)
"""Of the functions that ``torch.autocast("cuda")`` computes in lower precision, those that diffusion models call."""

_FULL = frozenset(
    {
        functional.group_norm,
        functional.layer_norm,
        functional.interpolate,
        functional.softmax,
        functional.mse_loss,
        torch.softmax,
        Tensor.softmax,
        torch.sum,
        Tensor.sum,
        torch.pow,
        Tensor.pow,
        Tensor.__pow__,
        torch.exp,
        torch.rsqrt,
    }
)
"""Likewise those that it computes in float32 (torch's ATen/autocast_mode.h lists both)."""


class Emulation(TorchFunctionMode):
    """While it is entered, what is computed on the meta device takes the memory that it would take on a GPU.

    Meta tensors know no autocast, their attention would keep the matrix of weights that a GPU's kernels never write,
    and they hold no numbers: every number read off one is 1, every array of them is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self._casts: dict[Tensor, Tensor] = {}

    @contextmanager
    def autocast(self, dtype: torch.dtype | None, cache: bool = True) -> Iterator[None]:
        """As ``torch.autocast`` on a GPU, off where ``dtype`` is None.

        ``cache``: casts of trained weights are kept until the end; under ``torch.inference_mode`` torch keeps none.
        """
        with torch.autocast(_FLAG, dtype, enabled=dtype is not None, cache_enabled=cache):
            yield
        self._casts.clear()

    def checkpoint(self, module: Any, *inputs: Any) -> Any:
        """As diffusers checkpoints activations; for ``enable_gradient_checkpointing``."""
        return checkpoint(
            module.__call__, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), self._again())
        )

    @contextmanager
    def _again(self) -> Iterator[Self]:
        """Computing a block again on the way back, where the mode is off and autocast's cache is the block's own."""
        self._casts.clear()
        with self:
            yield self
        self._casts.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What stands for ``func``."""
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func in (Tensor.__float__, Tensor.item):
                return 1.0
            if func is Tensor.__array__:
                return np.zeros(args[0].shape, np.float32)
        if torch.is_autocast_enabled(_FLAG):
            change = self._lower if func in _LOWER else _full if func in _FULL else None
            if change is not None:
                args = tuple(map(change, args))
                kwargs = {name: change(value) for name, value in kwargs.items()}
        if func is functional.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        """``value``, where it is a float32 tensor, in autocast's type; the casts of trained weights are kept."""
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        dtype = torch.get_autocast_dtype(_FLAG)
        trained = value.requires_grad and value.is_leaf and not value._is_view()
        if not trained or not torch.is_autocast_cache_enabled():
            return value.to(dtype)
        if value not in self._casts:
            self._casts[value] = value.to(dtype)
        return self._casts[value]


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **options: Any
) -> Tensor:
    if attn_mask is not None or options.get("enable_gqa"):
        raise NotImplementedError("attention with a mask or with grouped heads")
    return _Attention.apply(query, key, value)


class _Attention(torch.autograd.Function):
    """Flash or memory-efficient attention [B, heads, tokens, width]: what they keep, and how their tensors lie."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = _interleaved(query, value.shape[-1])
        exponents = query.new_empty(query.shape[:3], dtype=torch.float32)  # logarithm of each row's sum
        context.save_for_backward(query, key, value, out, exponents)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, exponents = context.saved_tensors
        correction = torch.empty_like(exponents)
        # below float32 the gradient of the query is summed up apart
        total = None if query.dtype == torch.float32 else torch.empty_like(query, dtype=torch.float32)
        found = tuple(_interleaved(one, one.shape[-1]) for one in (query, key, value))
        del correction, total
        return found


def _interleaved(like: Tensor, width: int) -> Tensor:
    """An empty [B, heads, tokens, width] whose heads lie side by side in memory, as the kernels write them."""
    rows, heads, tokens, _ = like.shape
    return like.new_empty(rows, tokens, heads, width).transpose(1, 2)
