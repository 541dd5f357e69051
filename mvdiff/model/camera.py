"""Camera embedding: where each view is seen from, relative to the condition's camera."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

FEATURES = 5


def camera_features(
    azimuth: Tensor, elevation: Tensor, log_distance: Tensor | None = None, field_of_view: Tensor | None = None
) -> Tensor:
    """float [..., 5]: sine and cosine of the azimuth, elevation, log distance, field of view.

    All relative to the condition's camera: angle differences in degrees, the logarithm of the ratio of distances. A
    quantity left out is the condition's own, a difference of zero.
    """
    zero = torch.zeros_like(azimuth)
    radians = torch.deg2rad(azimuth)
    return torch.stack(
        [
            torch.sin(radians),
            torch.cos(radians),
            torch.deg2rad(elevation),
            zero if log_distance is None else log_distance,
            zero if field_of_view is None else torch.deg2rad(field_of_view),
        ],
        -1,
    )


class CameraEmbedding(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Project camera features to the width of the UNet's time embedding, to which they are added."""

    @register_to_config
    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, azimuth: Tensor, elevation: Tensor) -> Tensor:
        """float [..., width] of angles in degrees [...] relative to the condition's camera."""
        return self.projection(camera_features(azimuth, elevation))
