"""Cameras as the network is told them: where each view is seen from, relative to the condition's camera."""

from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 5
CHANNELS = 4
"""Input channels that ``concat`` adds to the UNet."""


def camera_features(cameras: Tensor) -> Tensor:
    """float [..., 5]: sine and cosine of the azimuth, elevation, log distance, field of view.

    ``cameras`` float [..., 4] as ``mvdiff.rig.relative`` gives them: azimuth, elevation (degrees), logarithm of the
    ratio of distances, field of view (degrees), each relative to the condition's camera.
    """
    azimuth, elevation, log_distance, fov = cameras.unbind(-1)
    radians = torch.deg2rad(azimuth)
    return torch.stack(
        [torch.sin(radians), torch.cos(radians), torch.deg2rad(elevation), log_distance, torch.deg2rad(fov)], -1
    )


class CameraEmbedding(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """``camera_embeds`` float [B, V, width], and their way into the UNet.

    ``adaln`` adds a projection of them to the time embedding, ``cross_attention`` adds one to the context's tokens,
    each weighted by a gate of its own, as Zero123++ adds its image embedding, and ``concat`` makes input channels of
    one. The projection starts at zero, so that a pretrained UNet starts as the function it was; its gradient does not
    vanish there.
    """

    @register_to_config
    def __init__(
        self, width: int, injection: Literal["adaln", "cross_attention", "concat"], out: int, tokens: int = 0
    ) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.projection = nn.Linear(width, out)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        if injection == "cross_attention":
            self.gate = nn.Parameter(torch.linspace(0, 1, tokens + 1)[1:, None].clone())

    @property
    def injection(self) -> str:
        """``adaln``, ``cross_attention`` or ``concat``."""
        return self.config["injection"]

    def camera_embeds(self, cameras: Tensor) -> Tensor:
        """float [..., width] of relative ``cameras`` float [..., 4]."""
        return self.embedding(camera_features(cameras))

    def forward(self, cameras: Tensor) -> Tensor:
        """What is injected for each of ``cameras`` float [N, 4]: float [N, out]."""
        return self.projection(functional.silu(self.camera_embeds(cameras)))

    def into_tokens(self, injected: Tensor) -> Tensor:
        """float [N, tokens, out], to be added to the context (``cross_attention``)."""
        return self.gate * injected[:, None]

    def into_channels(self, injected: Tensor, height: int, width: int) -> Tensor:
        """float [N, out, height, width], to stand beside the latents (``concat``)."""
        return injected[:, :, None, None].expand(-1, -1, height, width)
