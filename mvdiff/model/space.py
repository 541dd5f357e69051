"""Latent spaces: what a model's views and its condition picture are to its UNet."""

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from mvdiff.model.latents import PatchLatents
from mvdiff.model.layout import tile, untile
from mvdiff.rig import VIEWS

IMAGE_SCALE = 0.5 / 0.8
LATENT_SHIFT, LATENT_SCALE = 0.22, 0.75
"""Zero123++ (Shi et al. 2023, and its published pipeline): pictures in [-1, 1] and the scaled latents of the views are
brought to these ranges; the condition's latents are neither scaled nor shifted."""

_DECODED_AT_ONCE = 8 * 40 * 40
"""Latent positions: decoding takes far more memory than sampling, and gains little from larger batches."""


class LatentSpace(Protocol):
    """Both ways between pictures and latents; nothing of it is trained."""

    channels: int
    factor: int
    """Pixels a side of one latent position."""
    samples: bool
    """Latents are drawn from a posterior and take a row of noise each."""

    def encode(self, views: Tensor, noise: Tensor | None) -> Tensor:
        """Latents float [B, 6, C, h, w] of ``views`` uint8 [B, 6, H, W, 3] and, where drawn, noise of their shape."""

    def encode_reference(self, pictures: Tensor, noise: Tensor | None) -> Tensor:
        """Latents float [B, C, s, s] of condition ``pictures`` uint8 [B, S, S, 3]."""

    def blank_reference(self, side: int, noise: Tensor | None, rows: int = 1) -> Tensor:
        """What stands for the reference latents of a dropped condition: float [N, C, side, side] or [1, ...].

        ``noise`` float [N, C, side, side] where latents are drawn. Where a picture is encoded for it, an encoder gets
        ``rows`` of it, of which one counts: it may be compiled for so many.
        """

    def encode_together(
        self, views: Tensor, pictures: Tensor, views_noise: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What ``encode``, ``encode_reference`` and ``blank_reference`` give, in one pass where that can be."""

    def decode(self, latents: Tensor) -> Tensor:
        """Views uint8 [B, 6, H, W, 3] of ``latents`` float [B, 6, C, h, w]."""


class PatchSpace:
    """The linear latents of the small model; the unconditional reference is a white picture."""

    samples = False

    def __init__(self, vae: PatchLatents) -> None:
        self._vae = vae
        self.channels, self.factor = int(vae.config["channels"]), int(vae.config["patch"])

    def encode(self, views: Tensor, noise: Tensor | None) -> Tensor:
        """As in ``LatentSpace``."""
        return self._vae.encode(views.flatten(0, 1)).unflatten(0, (-1, VIEWS))

    def encode_reference(self, pictures: Tensor, noise: Tensor | None) -> Tensor:
        """As in ``LatentSpace``."""
        return self._vae.encode(pictures)

    def blank_reference(self, side: int, noise: Tensor | None, rows: int = 1) -> Tensor:
        """As in ``LatentSpace``."""
        return torch.zeros(1, self.channels, side, side, device=self._vae.basis.device)

    def encode_together(
        self, views: Tensor, pictures: Tensor, views_noise: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in ``LatentSpace``."""
        side = pictures.shape[1] // self.factor
        reference = self.encode_reference(pictures, noise)
        return self.encode(views, views_noise), reference, self.blank_reference(side, noise)

    def decode(self, latents: Tensor) -> Tensor:
        """As in ``LatentSpace``."""
        return self._vae.decode(latents.flatten(0, 1)).unflatten(0, (-1, VIEWS))


class KLSpace:
    """Stable Diffusion's autoencoder with the scaling of Zero123++.

    The unconditional reference is that of the all-zero *tensor*, a mid-grey picture, as published. ``slots`` is the
    order of views in a tile, which is encoded and decoded as one picture; None where the layout is ``views``.
    """

    samples = True

    def __init__(self, vae: AutoencoderKL, slots: Sequence[int] | None) -> None:
        self._vae, self._slots = vae, slots
        self.channels = int(vae.config["latent_channels"])
        self.factor = 2 ** (len(vae.config["block_out_channels"]) - 1)

    def encode(self, views: Tensor, noise: Tensor | None) -> Tensor:
        """As in ``LatentSpace``."""
        assert noise is not None
        pictures = _scaled(views)  # [B, 6, 3, H, W]
        return self._brought(self._draw(self._together(pictures), self._together(noise)))

    def _brought(self, drawn: Tensor) -> Tensor:
        return self._apart((drawn * self._vae.config["scaling_factor"] - LATENT_SHIFT) * LATENT_SCALE)

    def encode_reference(self, pictures: Tensor, noise: Tensor | None) -> Tensor:
        """As in ``LatentSpace``."""
        assert noise is not None
        return self._draw(_scaled(pictures), noise)

    def blank_reference(self, side: int, noise: Tensor | None, rows: int = 1) -> Tensor:
        """As in ``LatentSpace``."""
        assert noise is not None
        size = side * self.factor
        mean, deviation = self._posterior(torch.zeros(rows, 3, size, size, device=noise.device, dtype=self._vae.dtype))
        return mean[:1] + deviation[:1] * noise

    def encode_together(
        self, views: Tensor, pictures: Tensor, views_noise: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in ``LatentSpace``."""
        assert views_noise is not None and noise is not None
        if self._slots is not None or views.shape[2] != pictures.shape[1]:
            blank = self.blank_reference(pictures.shape[1] // self.factor, noise)
            return self.encode(views, views_noise), self.encode_reference(pictures, noise), blank
        shown = torch.cat([_scaled(views.flatten(0, 1)), _scaled(pictures)])
        posterior = self._posterior(torch.cat([shown, torch.zeros_like(shown[:1])]))
        mean, deviation = (part.split([VIEWS * len(views), len(pictures), 1]) for part in posterior)
        drawn = mean[0] + deviation[0] * views_noise.flatten(0, 1)
        return self._brought(drawn), mean[1] + deviation[1] * noise, mean[2] + deviation[2] * noise

    def decode(self, latents: Tensor) -> Tensor:
        """As in ``LatentSpace``."""
        scaled = (self._together(latents) / LATENT_SCALE + LATENT_SHIFT) / self._vae.config["scaling_factor"]
        at_once = max(1, _DECODED_AT_ONCE // scaled[0, 0].numel())
        decoded = torch.cat([self._vae.decode(part).sample for part in scaled.split(at_once)])
        views = self._apart(decoded / IMAGE_SCALE)  # [B, 6, 3, H, W] in [-1, 1]
        return (views.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 1, 3, 4, 2)

    def _draw(self, pictures: Tensor, noise: Tensor) -> Tensor:
        mean, deviation = self._posterior(pictures)
        return mean + deviation * noise

    def _posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self._vae.encode(pictures.to(self._vae.dtype)).latent_dist
        return posterior.mean, posterior.std

    def _together(self, views: Tensor) -> Tensor:
        return views.flatten(0, 1) if self._slots is None else tile(views, self._slots)

    def _apart(self, pictures: Tensor) -> Tensor:
        return pictures.unflatten(0, (-1, VIEWS)) if self._slots is None else untile(pictures, self._slots)


def _scaled(pictures: Tensor) -> Tensor:
    """float [..., 3, H, W] in [-0.625, 0.625] of uint8 [..., H, W, 3], rounded as the published preprocessing rounds.

    Contiguous: on a CPU, group norms over channels-last memory lose two digits where a picture is flat.
    """
    return ((pictures.float() * (1 / 255) - 0.5) / 0.8).movedim(-1, -3).contiguous()
