"""Cross-attention context: a prompt's tokens plus a global embedding of the condition picture."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class LearnedContext(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The context of the small model, all of it learned: ``prompt + ramp * embedding``.

    One prompt for conditioned and one for unconditional samples; the picture's embedding is a projection of its latents
    averaged to a coarse grid.
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

    def forward(
        self, reference: Tensor, embedding: Tensor | None, dropped: Tensor, prompt: Tensor | None = None
    ) -> Tensor:
        """float [B, tokens, width] of reference latents float [B, C, h, w] and ``dropped`` bool [B]."""
        pooled = functional.adaptive_avg_pool2d(reference, self.config["grid"]).flatten(1)  # [B, C grid grid]
        chosen = torch.where(dropped[:, None, None], self.empty_prompt, self.prompt)
        return chosen + self.ramp * self.embedding(pooled)[:, None]


class PromptContext(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The context of Zero123++: text embeddings plus ``ramp`` times the picture's CLIP embedding.

    Text is encoded once and kept here, so that generation needs no text encoder; ``learned`` says that its embedding
    has been trained since. A sample whose condition is dropped
    sees the empty prompt and no embedding, in training as in sampling.
    """

    empty_prompt: Tensor
    """float [tokens, width], embeddings of the empty text."""
    ramp: Tensor
    """float [tokens, 1]; zero where the weights know no image embedding."""

    @register_to_config
    def __init__(self, tokens: int, width: int, text: str = "", learned: bool = False) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.zeros(tokens, width))
        self.register_buffer("empty_prompt", torch.zeros(tokens, width))
        self.register_buffer("ramp", torch.zeros(tokens, 1))

    def forward(
        self, reference: Tensor, embedding: Tensor | None, dropped: Tensor, prompt: Tensor | None = None
    ) -> Tensor:
        """float [B, tokens, width] of image ``embedding`` float [B, width] and ``dropped`` bool [B].

        ``prompt`` float [tokens, width] takes the place of the stored one while its token is being trained.
        """
        context = (self.prompt if prompt is None else prompt).expand(len(dropped), -1, -1)
        if embedding is not None:
            context = context + self.ramp * embedding[:, None]
        return torch.where(dropped[:, None, None], self.empty_prompt, context)
