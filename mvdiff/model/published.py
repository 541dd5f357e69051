"""The published architecture: Stable Diffusion 2.1 as Zero123++ uses it (Shi et al. 2023 and their configurations)."""

from collections.abc import Mapping
from typing import Any

from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

TOKENS = 77
RAMP = tuple(k / (TOKENS - 1) for k in range(TOKENS))
"""What stands for the published ramping coefficients where weights are random."""

UNET: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
VISION: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "projection_dim": 1024,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
"""CLIP ViT-H/14."""
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def scheduler(config: Mapping[str, Any]) -> EulerAncestralDiscreteScheduler:
    """The noise schedule of Zero123++ from a published folder's ``scheduler_config.json``.

    Zero123++ keeps the numbers of Stable Diffusion 2.1 but makes the betas linear, and samples with trailing timesteps.
    """
    kept = {name: config[name] for name in ("num_train_timesteps", "beta_start", "beta_end") if name in config}
    return EulerAncestralDiscreteScheduler(**(SCHEDULER | kept))
