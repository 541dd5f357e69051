"""The arithmetic of Zero123++'s public pipeline as its users run it: one picture at a time, eager, in half precision.

Written from its published description; it shares no code with ``mvdiff/model``. Of the frozen parts it runs the
autoencoder, and the vision encoder where there is one.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from torch import Tensor
from torch.nn import functional

from mvdiff.model import published

ROWS, COLUMNS, CHANNELS, FACTOR = 3, 2, 4, 8


class _Reference:
    """Self-attention that keeps its input on one pass and attends to it on the next."""

    def __init__(self, name: str, kept: dict[str, Tensor]) -> None:
        self._name, self._kept = name, kept

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mode: str = "write",
    ) -> Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is None and mode == "write":
            self._kept[self._name] = hidden_states
        elif encoder_hidden_states is None:
            seen = torch.cat([hidden_states, self._kept.pop(self._name)], 1)
        query, key, value = (
            one.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for one in (attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen))
        )
        out = functional.scaled_dot_product_attention(query, key, value)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


class PublicPipeline:
    """The published networks with the weights' values left to chance, which speed does not depend on."""

    def __init__(self, device: torch.device, vision_encoder: Any | None) -> None:
        """``vision_encoder`` is CLIP's, or None where it is not to be run; it is copied in half precision."""
        with device:
            self.unet: Any = UNet2DConditionModel(**published.UNET).half().eval()
            self.vae: Any = AutoencoderKL(**published.VAE).half().eval()
        self.vision = None if vision_encoder is None else type(vision_encoder)(vision_encoder.config).half().to(device)
        self.device = device
        self._kept: dict[str, Tensor] = {}
        self.unet.set_attn_processor({name: _Reference(name, self._kept) for name in self.unet.attn_processors})

    @torch.inference_mode()
    def __call__(self, size: int, condition_size: int, steps: int, guidance: float) -> Tensor:
        """One tile uint8 [3 size, 2 size, 3] around a picture of noise of ``condition_size`` pixels."""
        here: dict[str, Any] = {"device": self.device, "dtype": torch.float16}
        picture = torch.rand(1, 3, condition_size, condition_size, **here)
        condition, blank = (self.vae.encode(one).latent_dist.sample() for one in (picture, torch.zeros_like(picture)))
        context = torch.randn(2, published.TOKENS, published.UNET["cross_attention_dim"], **here)
        if self.vision is not None:
            glance = torch.randn(1, 3, *[self.vision.config.image_size] * 2, **here)
            context[1] += self.vision(glance).image_embeds[0]
        both = torch.cat([blank, condition])
        scheduler: Any = EulerAncestralDiscreteScheduler(**published.SCHEDULER)
        scheduler.set_timesteps(steps, device=self.device)
        side = size // FACTOR
        latents = torch.randn(1, CHANNELS, ROWS * side, COLUMNS * side, **here) * scheduler.init_noise_sigma
        for step in scheduler.timesteps:
            shown = scheduler.add_noise(both, torch.randn_like(both), step.reshape(1))
            self._predict(scheduler.scale_model_input(shown, step), step, context, "write")
            doubled = scheduler.scale_model_input(torch.cat([latents] * 2), step)
            without, conditional = self._predict(doubled, step, context, "read").chunk(2)
            guided = without + guidance * (conditional - without)
            latents = scheduler.step(guided, step, latents, return_dict=False)[0]
        decoded = self.vae.decode((latents / 0.75 + 0.22) / self.vae.config.scaling_factor).sample[0]
        picture = (decoded / 0.5 * 0.8 / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
        return (picture * 255).round().to(torch.uint8).cpu()

    def _predict(self, latents: Tensor, step: Tensor, context: Tensor, mode: str) -> Tensor:
        return self.unet(latents, step, encoder_hidden_states=context, cross_attention_kwargs={"mode": mode}).sample
