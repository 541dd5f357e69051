"""Position channels: where in the picture a latent lies, told to the network beside the latents.

A large pretrained UNet has learnt it from its padding; a small one that trains for minutes is told.
"""

import torch
from torch import Tensor


def channels(frequencies: int) -> int:
    """Number of channels of ``waves``."""
    return 4 * frequencies


def waves(frequencies: int, grid: int) -> Tensor:
    """float32 [4 frequencies, grid, grid]: sine and cosine of 1, 2, ... half waves across and down the picture."""
    at = (torch.arange(grid) + 0.5) / grid - 0.5
    phase = torch.pi * at * torch.arange(1, frequencies + 1)[:, None]  # [frequencies, grid]
    lines = torch.cat([phase.sin(), phase.cos()])  # [2 frequencies, grid]
    return torch.cat([lines[:, None, :].expand(-1, grid, -1), lines[:, :, None].expand(-1, -1, grid)])
