"""Writers of small random checkpoints in the published folder layouts of Zero123++ and Stable Diffusion 2.1.

Key names, file names and configurations follow the published files; widths and depths do not. The weights are drawn
from ``seed`` and scaled so that outputs are of order 1.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
OLD_ATTENTION_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
MERGES = [
    "m o", "u s", "us e</w>", "mo use</w>", "w h", "i t", "it e</w>", "wh ite</w>", "i g", "h ig", "hig h</w>",
    "b a", "c k", "ba ck", "g r", "o u", "n d</w>", "l a", "t o", "to r", "r y</w>", "q u", "a l", "qu al", "it y</w>",
]  # fmt: skip


def write_zero123plus(
    folder: Path,
    *,
    seed: int = 0,
    unet_dtype: torch.dtype = torch.float32,
    others_dtype: torch.dtype = torch.float32,
    condition_crop: int = 64,
    condition_resize: bool = True,
    unet_channels: tuple[int, ...] = (32, 64, 64, 64),
    unet_heads: tuple[int, ...] = (2, 4, 4, 4),
    layers_per_block: int = 2,
    vae_channels: tuple[int, ...] = (32, 32, 32, 32),
    vae_layers_per_block: int = 2,
    hidden: int = 32,
    old_vae_names: bool = True,
    position_ids: bool = True,
    old_tokenizer: bool = False,
) -> Path:
    """The layout of zero123plus-v1.1 and -v1.2 (v1.2 has a float32 UNet, all else float16, and new VAE names)."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    _write_unet(folder / "unet", generator, unet_dtype, unet_channels, unet_heads, layers_per_block, hidden)
    _write_vae(
        folder / "vae",
        generator,
        others_dtype,
        vae_channels,
        vae_layers_per_block,
        old_vae_names,
        scaling_factor=0.18215,
    )
    vocabulary = _write_tokenizer(folder / "tokenizer", old=old_tokenizer)
    _write_text_encoder(folder / "text_encoder", generator, others_dtype, vocabulary, hidden, position_ids)
    _write_vision_encoder(folder / "vision_encoder", generator, others_dtype, hidden, position_ids)
    _write_image_processor(folder / "feature_extractor_clip", 28, CLIP_MEAN, CLIP_STD)
    _write_image_processor(
        folder / "feature_extractor_vae", condition_crop, [0.5] * 3, [0.8] * 3, resize=condition_resize
    )
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "EulerAncestralDiscreteScheduler",
            "_diffusers_version": "0.20.2",
            "beta_end": 0.012,
            "beta_schedule": "linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "interpolation_type": "linear",
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "linspace",
            "trained_betas": None,
            "use_karras_sigmas": False,
        },
    )
    ramp = 0.2 + 0.4 * torch.rand(77, generator=generator)
    ramp[0] = 0
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "Zero123PlusPipeline",
            "_diffusers_version": "0.20.2",
            "feature_extractor_clip": ["transformers", "CLIPImageProcessor"],
            "feature_extractor_vae": ["transformers", "CLIPImageProcessor"],
            "ramping_coefficients": ramp.tolist(),
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "vision_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        },
    )
    return folder


def write_stable_diffusion(
    folder: Path,
    *,
    seed: int = 0,
    unet_dtype: torch.dtype = torch.float32,
    others_dtype: torch.dtype = torch.float32,
    unet_channels: tuple[int, ...] = (32, 64, 64, 64),
    unet_heads: tuple[int, ...] = (2, 4, 4, 4),
    layers_per_block: int = 2,
    vae_channels: tuple[int, ...] = (32, 32, 32, 32),
    vae_layers_per_block: int = 2,
    hidden: int = 32,
    old_vae_names: bool = True,
    position_ids: bool = True,
    old_tokenizer: bool = True,
) -> Path:
    """The layout of stable-diffusion-2-1 (768-v): no vision encoder, no ramp, scaled-linear betas."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    _write_unet(folder / "unet", generator, unet_dtype, unet_channels, unet_heads, layers_per_block, hidden)
    _write_vae(
        folder / "vae", generator, others_dtype, vae_channels, vae_layers_per_block, old_vae_names, scaling_factor=None
    )
    vocabulary = _write_tokenizer(folder / "tokenizer", old=old_tokenizer)
    _write_text_encoder(folder / "text_encoder", generator, others_dtype, vocabulary, hidden, position_ids)
    _write_image_processor(folder / "feature_extractor", 224, CLIP_MEAN, CLIP_STD)
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "DDIMScheduler",
            "_diffusers_version": "0.8.0",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
        },
    )
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.8.0",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return folder


def _write_unet(
    folder: Path,
    generator: torch.Generator,
    dtype: torch.dtype,
    channels: tuple[int, ...],
    heads: tuple[int, ...],
    layers: int,
    context: int,
) -> None:
    config = {
        "act_fn": "silu",
        "attention_head_dim": list(heads),
        "block_out_channels": list(channels),
        "center_input_sample": False,
        "cross_attention_dim": context,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": layers,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "upcast_attention": True,
        "use_linear_projection": True,
    }
    unet = UNet2DConditionModel(**config).eval()
    _draw_weights(unet, generator)
    with torch.no_grad():
        noise = torch.randn(2, 4, 24, 16, generator=generator)
        text = torch.randn(2, 77, context, generator=generator)
        _unit_output(unet.conv_out, unet(noise, torch.tensor([100, 900]), text).sample, std=1.0)
    _write_json(
        folder / "config.json", {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.10.0.dev0", **config}
    )
    _write_weights(folder / "diffusion_pytorch_model.safetensors", unet.state_dict(), dtype)


def _write_vae(
    folder: Path,
    generator: torch.Generator,
    dtype: torch.dtype,
    channels: tuple[int, ...],
    layers: int,
    old_names: bool,
    scaling_factor: float | None,
) -> None:
    config: dict[str, Any] = {
        "act_fn": "silu",
        "block_out_channels": list(channels),
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": layers,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 768,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    if scaling_factor is not None:
        config["scaling_factor"] = scaling_factor
    vae = AutoencoderKL(**config).eval()
    _draw_weights(vae, generator)
    with torch.no_grad():
        coarse = torch.randn(2, 3, 16, 16, generator=generator)
        picture = nn.functional.interpolate(coarse, size=64, mode="bilinear").clamp(-1, 1) * 0.625
        _unit_output(vae.quant_conv, vae.encode(picture).latent_dist.parameters, std=1.0)
        vae.quant_conv.weight[4:] *= 0.3
        vae.quant_conv.bias[4:] = vae.quant_conv.bias[4:] * 0.3 - 1
        latents = torch.randn(2, 4, 16, 16, generator=generator) / 0.18215
        _unit_output(vae.decoder.conv_out, vae.decode(latents).sample, std=0.3)
    _write_json(folder / "config.json", {"_class_name": "AutoencoderKL", "_diffusers_version": "0.10.0.dev0", **config})
    weights = vae.state_dict()
    if old_names:
        weights = {_old_vae_name(key): value for key, value in weights.items()}
    _write_weights(folder / "diffusion_pytorch_model.safetensors", weights, dtype)


def _old_vae_name(key: str) -> str:
    """The name that diffusers before 0.15 gave to a weight of the attention in the VAE's middle block."""
    if ".attentions.0." in key:
        for new, old in OLD_ATTENTION_NAMES.items():
            key = key.replace(f".{new}.", f".{old}.")
    return key


def _write_text_encoder(
    folder: Path, generator: torch.Generator, dtype: torch.dtype, vocabulary: int, hidden: int, position_ids: bool
) -> None:
    config = {
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * hidden,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pad_token_id": 1,
        "projection_dim": hidden,
        "vocab_size": vocabulary,
    }
    model = CLIPTextModel(CLIPTextConfig(**config))
    _draw_weights(model, generator)
    weights = {_with_prefix(key, "text_model."): value for key, value in model.state_dict().items()}
    if position_ids:
        weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    published = {"architectures": ["CLIPTextModel"], "torch_dtype": _name(dtype), "transformers_version": "4.25.0.dev0"}
    _write_json(folder / "config.json", {**config, **published})
    _write_weights(folder / "model.safetensors", weights, dtype)


def _write_vision_encoder(
    folder: Path, generator: torch.Generator, dtype: torch.dtype, hidden: int, position_ids: bool
) -> None:
    config = {
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "image_size": 28,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "projection_dim": hidden,
    }
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    _draw_weights(model, generator)
    weights = {
        key if key.startswith("visual_projection.") else _with_prefix(key, "vision_model."): value
        for key, value in model.state_dict().items()
    }
    if position_ids:
        weights["vision_model.embeddings.position_ids"] = torch.arange(1 + (28 // 14) ** 2)[None]
    published = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "torch_dtype": _name(dtype),
        "transformers_version": "4.25.0.dev0",
    }
    _write_json(folder / "config.json", {**config, **published})
    _write_weights(folder / "model.safetensors", weights, dtype)


def _write_tokenizer(folder: Path, old: bool) -> int:
    """A byte-level tokenizer with few merges and "!" (token 0) as padding; returns the size of its vocabulary.

    ``old``: as in stable-diffusion-2-1, where special_tokens_map.json says "!" but tokenizer_config.json does not.
    """
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in MERGES)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    _write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")

    def special(token: str, normalized: bool = True) -> dict[str, Any]:
        return {"content": token, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}

    start, end = special("<|startoftext|>"), special("<|endoftext|>")
    _write_json(
        folder / "special_tokens_map.json",
        {
            "bos_token": start,
            "eos_token": end,
            "pad_token": "!" if old else special("!", normalized=False),
            "unk_token": end,
        },
    )
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    }
    if old:
        tagged = [{"__type": "AddedToken", **token} for token in (start, end)]
        config |= {"bos_token": tagged[0], "eos_token": tagged[1], "pad_token": "<|endoftext|>", "unk_token": tagged[1]}
    else:
        numbered = {0: special("!", normalized=False), len(tokens) - 2: start, len(tokens) - 1: end}
        config |= {
            "added_tokens_decoder": {str(index): {**token, "special": True} for index, token in numbered.items()},
            "bos_token": "<|startoftext|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|endoftext|>",
            "pad_token": "!",
            "unk_token": "<|endoftext|>",
        }
    _write_json(folder / "tokenizer_config.json", config)
    return len(tokens)


def _byte_letters() -> list[str]:
    """A printable letter for each of the 256 bytes: itself where printable, else one from U+0100 on; "!" is first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + k) for k in range(256 - len(printable))]


def _write_image_processor(folder: Path, size: int, mean: list[float], std: list[float], resize: bool = True) -> None:
    _write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": size, "width": size},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": resize,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": mean,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": std,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": size},
        },
    )


@torch.no_grad()
def _draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Matrices keep the variance of what they are given; norms scale by about 1; biases and embeddings are not zero."""
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            value.copy_(1 + 0.1 * noise)
        elif name.endswith("bias"):
            value.copy_(0.1 * noise)
        elif "embedding" in name and "patch" not in name and value.ndim <= 2 and "linear" not in name:
            value.copy_(noise)
        else:
            value.copy_(noise / math.sqrt(value[0].numel()))


@torch.no_grad()
def _unit_output(last: nn.Module, output: Tensor, std: float) -> None:
    """Rescale the ``last`` layer of a model so that ``output`` would have had mean 0 and ``std`` in each channel."""
    channels = output.transpose(0, 1).flatten(1)
    factor = std / channels.std(dim=1)
    last.weight *= factor.view(-1, *[1] * (last.weight.ndim - 1))
    last.bias.copy_((last.bias - channels.mean(dim=1)) * factor)


def _with_prefix(key: str, prefix: str) -> str:
    return key if key.startswith(prefix) else prefix + key


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_weights(path: Path, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    cast = {k: v.to(dtype).contiguous() if v.is_floating_point() else v.contiguous() for k, v in weights.items()}
    save_file(cast, path, metadata={"format": "pt"})
