"""The matrix product that model FLOPs are held against, measured in the same process."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

_SIDE = {"cuda": 8192, "cpu": 1024}
_REPEATS, _WARM = 20, 3


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one of ``repeats`` runs of ``work``, the device having finished them."""
    finish(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    finish(device)
    return (time.perf_counter() - start) / repeats


def finish(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_product(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a square matrix product of random ``dtype`` values, 8192 a side on a GPU."""
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> Tensor:
        return left @ right

    seconds(multiply, device, _WARM)
    return 2 * side**3 / seconds(multiply, device, _REPEATS) / 1e12
