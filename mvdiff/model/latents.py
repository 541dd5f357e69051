"""The latent space of the small model: a linear autoencoder of square patches, fitted once on training views."""

from collections.abc import Iterable
from typing import Self

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mvdiff.errors import InputError


class PatchLatents(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Project each patch on the leading principal components of mouse patches, partly whitened.

    Colours are taken as differences from white, so an empty background is exactly zero in latents and comes back
    exactly white. Linear both ways but for one thing: a patch whose latents carry less energy (sum of squares) than
    ``floor`` is decoded as blank, since what a sampler leaves on empty ground is noise. The components are orthogonal,
    so an error in latents is an error of known size in pixels.
    """

    basis: Tensor
    """float32 [C, 3 patch patch], orthonormal rows."""
    scale: Tensor
    """float32 [C], deviation of a component divided by the deviation its latent channel is given."""

    @register_to_config
    def __init__(self, patch: int, channels: int, floor: float) -> None:
        super().__init__()
        self.patch = patch
        self.floor = floor
        self.register_buffer("basis", torch.eye(channels, 3 * patch * patch))
        self.register_buffer("scale", torch.ones(channels))

    @classmethod
    def fit(
        cls,
        views: Iterable[NDArray[np.uint8]],
        *,
        patch: int,
        channels: int,
        whitening: float,
        deviation: float,
        floor: float,
    ) -> Self:
        """Principal components of the patches of ``views`` (each uint8 [V, H, W, 3]) that are not blank.

        ``whitening`` in [0, 1] moves from the components' own variances to equal ones; ``deviation`` is the root mean
        square of the resulting latents over those patches, and ``floor`` is a share of their mean energy.
        Deterministic. Raises ``InputError`` where every view is blank.
        """
        width = 3 * patch * patch
        moment = torch.zeros(width, width, dtype=torch.float64)
        count = 0
        for picture in views:
            rows = functional.pixel_unshuffle(_darkness(torch.as_tensor(np.asarray(picture))) / -255, patch)
            rows = rows.permute(0, 2, 3, 1).reshape(-1, width)  # [V h w, 3 patch patch]
            rows = rows[rows.abs().amax(1) > 0.02]
            moment += (rows.T @ rows).double()
            count += len(rows)
        if count == 0:
            raise InputError("every training view is blank", "check that the views show a mouse on white")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vectors, variance, _ = torch.svd_lowrank(moment / count, q=min(width, 2 * channels), niter=12)
        basis = vectors[:, :channels].T.contiguous()  # [C, 3 patch patch]
        # An eigenvector's sign is arbitrary: fix it, so that two machines fit the same latents.
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        basis = basis * largest.sign()
        kept = variance[:channels].clamp_min(1e-8).sqrt()
        target = kept ** (1 - whitening)
        target = target * deviation / target.square().mean().sqrt()
        latents = cls(patch=patch, channels=channels, floor=floor * channels * deviation**2)
        latents.basis.copy_(basis)
        latents.scale.copy_(kept / target)
        return latents

    def encode(self, views: Tensor) -> Tensor:
        """Latents float [N, C, h, w] of ``views`` uint8 [N, H, W, 3]."""
        filters = (self.basis / self.scale[:, None]).unflatten(1, (3, self.patch, self.patch))  # [C, 3, patch, patch]
        return functional.conv2d(_darkness(views), filters / -255, stride=self.patch)

    def decode(self, latents: Tensor) -> Tensor:
        """Views uint8 [N, H, W, 3] of ``latents`` float [N, C, h, w]."""
        filters = (self.basis * self.scale[:, None]).unflatten(1, (3, self.patch, self.patch))  # [C, 3, patch, patch]
        latents = latents * (latents.square().sum(1, keepdim=True) >= self.floor)
        views = functional.conv_transpose2d(latents, filters, stride=self.patch)  # [N, 3, H, W]
        return ((views + 1) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _darkness(views: Tensor) -> Tensor:
    """float [N, 3, H, W] in [0, 255], white is 0, of uint8 [N, H, W, 3]."""
    return (255 - views).permute(0, 3, 1, 2).float()
