"""What the model trains on: everything random already drawn, so that the loss is a pure function of the batch."""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass
class TrainingBatch:
    """Samples with their noise, timesteps and dropped conditions."""

    sample_ids: list[str]
    """[B]"""
    views: Tensor
    """uint8 [B, 6, H, W, 3], RGB on white."""
    reference: Tensor
    """uint8 [B, H, W, 3], the condition picture."""
    azimuth: Tensor
    """float [B, 6], degrees, of each view relative to the reference."""
    elevation: Tensor
    """float [B, 6], degrees, of each view relative to the reference."""
    timestep: Tensor
    """int64 [B], one for all views of a sample."""
    noise: Tensor
    """float32 [B, R, C, h, w] with R = ``MultiViewModel.noise_rows``: the views' noise and, where the reference is
    noised too, the reference's as the last row."""
    dropped: Tensor
    """bool [B]: the condition is dropped, which trains the unconditional branch of guidance."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on ``device``."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "sample_ids"}
        return replace(self, **tensors)
