"""The condition picture as the frozen parts of the model see it: its latents' size, and a glance for CLIP."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mvdiff.model.pretrained.conformity import CLIP_DEVIATION, CLIP_MEAN


@dataclass(frozen=True)
class Sight:
    """How a condition picture is resized: on the CPU and by Pillow, as the published pipeline does it."""

    condition_size: int
    """Side in pixels of the picture whose latents the reference pass sees."""
    glance_size: int
    """Side in pixels of the picture that the vision encoder embeds; 0 where there is none."""

    def __call__(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """uint8 [S, S, 3] and uint8 [g, g, 3] of a square ``picture`` uint8 [H, H, 3]."""
        return resized(picture, self.condition_size), resized(picture, self.glance_size)


def resized(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [size, size, 3] of a square ``picture`` uint8 [H, H, 3], bicubic."""
    if picture.shape[0] == size:
        return picture
    if size == 0:
        return np.zeros((0, 0, 3), np.uint8)
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def clip_input(glance: Tensor) -> Tensor:
    """float [B, 3, g, g], normalised for CLIP, of uint8 [B, g, g, 3]."""
    mean, deviation = (torch.tensor(values, device=glance.device) for values in (CLIP_MEAN, CLIP_DEVIATION))
    return ((glance.float() * (1 / 255) - mean) / deviation).permute(0, 3, 1, 2).contiguous()
