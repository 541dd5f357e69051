"""Numbers read out of a GPU that goes on working meanwhile."""

import torch
from torch import Tensor


class Readout:
    """A copy of ``numbers`` on its way to the host; what the GPU is given to do after it is not waited for."""

    def __init__(self, numbers: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=numbers.is_cuda)
        self._here.copy_(numbers, non_blocking=True)
        if numbers.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def numbers(self) -> Tensor:
        """They, on the CPU, as soon as they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._here
