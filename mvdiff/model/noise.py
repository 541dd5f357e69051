"""The noise of sampling: every sample's from its own seed."""

from collections.abc import Sequence

import torch
from torch import Tensor
from xxhash import xxh3_64_intdigest


class SampleNoise:
    """Streams of standard normal noise, one for each sample and purpose, drawn on the CPU.

    A sample's streams depend on its seed alone, never on its batch; one purpose's draws never shift another's.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._seeds = [int(seed) for seed in seeds]
        self._device = torch.device(device)
        self._streams: dict[str, list[torch.Generator]] = {}

    def streams(self, purpose: str) -> list[torch.Generator]:
        """One generator a sample."""
        if purpose not in self._streams:
            self._streams[purpose] = [
                torch.Generator().manual_seed(xxh3_64_intdigest(f"{purpose}|{seed}".encode()) >> 1)
                for seed in self._seeds
            ]
        return self._streams[purpose]

    def draw(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """float32 [B, *shape], the next of each sample's stream."""
        drawn = torch.stack([torch.randn(tuple(shape), generator=stream) for stream in self.streams(purpose)])
        if self._device.type == "cuda":
            # from memory that is not pinned the copy would wait for all of the GPU's work before it
            return drawn.pin_memory().to(self._device, non_blocking=True)
        return drawn.to(self._device)


def blank_noise(device: torch.device | str = "cpu") -> SampleNoise:
    """The noise of the unconditional reference, [1, ...]: the same for every sample, so that a batch can share it."""
    return SampleNoise([0], device)
