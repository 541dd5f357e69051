"""Cross-attention context: a prompt's tokens plus a global embedding of the condition picture."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class ContextEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Tokens that every view attends to: ``prompt + ramp * embedding``, as Zero123++ joins text and CLIP embedding.

    Here the prompt is learned, one for conditioned and one for unconditional samples, and the picture's embedding is a
    projection of its latents averaged to a coarse grid.
    """

    @register_to_config
    def __init__(self, latent_channels: int, grid: int, tokens: int, width: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.empty_prompt = nn.Parameter(torch.zeros(tokens, width))
        self.ramp = nn.Parameter(torch.linspace(0, 1, tokens + 1)[1:, None].clone())
        self.embedding = nn.Sequential(
            nn.Linear(latent_channels * grid * grid, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, reference: Tensor, dropped: Tensor) -> Tensor:
        """float [B, tokens, width] of reference latents float [B, C, h, w] and ``dropped`` bool [B]."""
        pooled = functional.adaptive_avg_pool2d(reference, self.config["grid"]).flatten(1)  # [B, C grid grid]
        prompt = torch.where(dropped[:, None, None], self.empty_prompt, self.prompt)
        return prompt + self.ramp * self.embedding(pooled)[:, None]
