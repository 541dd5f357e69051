"""What the model trains on: everything random already drawn, so that the loss is a pure function of the batch."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

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
    """uint8 [B, S, S, 3], the condition picture at the size at which its latents are taken."""
    glance: Tensor
    """uint8 [B, g, g, 3], the condition picture as the vision encoder sees it; g is 0 where the model has none."""
    cameras: Tensor
    """float [B, 6, 4] of each view relative to the reference, as ``mvdiff.rig.relative`` gives them."""
    timestep: Tensor
    """int64 [B], one for all views of a sample."""
    noise: dict[str, Tensor]
    """float32 [B, ...] of each of ``MultiViewModel.noise_shapes``."""
    dropped: Tensor
    """bool [B]: the condition is dropped, which trains the unconditional branch of guidance."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on ``device``."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, non_blocking=True)
        moved["noise"] = {name: noise.to(device, non_blocking=True) for name, noise in self.noise.items()}
        return replace(self, **moved)
