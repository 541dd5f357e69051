"""How much a sample's loss weighs, by its timestep."""

import torch
from torch import Tensor


def loss_weights(signal: Tensor, spread: Tensor, min_snr: float | None) -> Tensor:
    """float32 [T] for losses of v: all one, or min-SNR weighting.

    ``signal`` and ``spread`` float32 [T] are the shares of clean latents and noise. Hang et al. 2023 (Efficient
    diffusion training via min-SNR weighting strategy, section 3.4): min(SNR, gamma) weighs the error of the clean
    latents, which is that of v divided by SNR + 1.
    """
    if min_snr is None:
        return torch.ones_like(signal)
    ratio = (signal.double() / spread.double()) ** 2
    return (ratio.clamp(max=min_snr) / (ratio + 1)).float()
