"""Zero123++ as published, for one picture in float32, in plain steps: what the project's own model is compared with.

Only the stock networks are taken from diffusers and transformers. Everything around them is written out here from the
published description and shares no code with mvdiff.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection


@torch.no_grad()
def plain_zero123plus(
    folder: Path, picture: np.ndarray, noise: dict[str, Tensor], *, prompt: str, steps: int, guidance: float
) -> dict[str, Any]:
    """Six views of ``picture`` (uint8 [S, S, 3]) as one tile of 3 rows and 2 columns.

    ``noise``: unit normal draws. views [4, 3h, 2w]; reference_posterior and blank_posterior [4, s, s]; reference and
    blank_reference [steps, 4, s, s]; ancestral [steps, 4, 3h, 2w].

    Returns latents [4, 3h, 2w] (as the network sees them, not yet unscaled), trajectory (the latents after each step),
    context [77, D] (with the picture's embedding), condition [4, s, s] and image (uint8 [3h*8, 2w*8, 3]).
    """
    vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().eval()
    ramp = torch.tensor(_read_json(folder / "model_index.json")["ramping_coefficients"])

    pixels = prepare_picture(picture, folder / "feature_extractor_vae")
    condition = _encode(vae, pixels, noise["reference_posterior"])
    blank = _encode(vae, torch.zeros_like(pixels), noise["blank_posterior"])
    empty_context = _embed_prompt(folder, "")
    context = _embed_prompt(folder, prompt) + ramp[:, None] * _embed_picture(folder, picture)

    timesteps, sigmas = trailing_schedule(_read_json(folder / "scheduler" / "scheduler_config.json"), steps)
    predict = _reference_network(unet)
    x = noise["views"] * sigmas[0]
    trajectory = []
    for step, timestep in enumerate(timesteps):
        sigma, next_sigma = sigmas[step], sigmas[step + 1]
        shrink = 1 / (sigma**2 + 1).sqrt()
        reference = (condition + sigma * noise["reference"][step]) * shrink
        blank_reference = (blank + sigma * noise["blank_reference"][step]) * shrink
        with_picture = predict(x * shrink, reference, timestep, context)
        without = predict(x * shrink, blank_reference, timestep, empty_context)
        velocity = without + guidance * (with_picture - without)

        clean = x * shrink**2 - velocity * sigma * shrink
        slope = (x - clean) / sigma
        up = (next_sigma**2 * (sigma**2 - next_sigma**2) / sigma**2).sqrt()
        down = (next_sigma**2 - up**2).sqrt()
        x = x + slope * (down - sigma) + up * noise["ancestral"][step]
        trajectory.append(x)

    decoded = vae.decode((x / 0.75 + 0.22)[None] / vae.config.scaling_factor).sample[0]
    image = ((decoded / 0.5 * 0.8 + 1) / 2).clamp(0, 1).permute(1, 2, 0)
    return {
        "latents": x,
        "trajectory": trajectory,
        "context": context,
        "condition": condition,
        "image": (image * 255).round().to(torch.uint8).numpy(),
    }


def trailing_schedule(config: dict[str, Any], steps: int) -> tuple[list[int], Tensor]:
    """``steps`` timesteps, the last training one first, and their noise levels with a final 0: float32 [steps + 1]."""
    if config["beta_schedule"] != "linear":
        raise ValueError(f"Zero123++ has linear betas, not {config['beta_schedule']}")
    count = config["num_train_timesteps"]
    kept = (1 - torch.linspace(config["beta_start"], config["beta_end"], count)).cumprod(0)
    timesteps = [int(t) - 1 for t in np.arange(count, 0, -count / steps).round()[:steps]]  # arange may give one more
    sigmas = ((1 - kept) / kept).sqrt()[timesteps]
    return timesteps, torch.cat([sigmas, torch.zeros(1)])


def prepare_picture(picture: np.ndarray, folder: Path) -> Tensor:
    """A uint8 picture [H, W, 3] as the processor configured in ``folder`` hands it to a network: [3, size, size]."""
    config = _read_json(folder / "preprocessor_config.json")
    image = Image.fromarray(picture)
    if config["do_resize"]:
        size = config["size"]["shortest_edge"]
        shortest = min(image.size)
        width, height = (int(size * side / shortest) for side in image.size)
        image = image.resize((width, height), Image.Resampling(config["resample"]))
    values = np.asarray(image)
    if config["do_center_crop"]:
        values = _centre(values, config["crop_size"]["height"], config["crop_size"]["width"])
    scaled = torch.from_numpy(values.astype(np.float32)) / 255
    return ((scaled - torch.tensor(config["image_mean"])) / torch.tensor(config["image_std"])).permute(2, 0, 1)


def _centre(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a picture, in a black frame where the picture is smaller."""
    tall, wide = max(0, height - values.shape[0]), max(0, width - values.shape[1])
    above, left = math.ceil(tall / 2), math.ceil(wide / 2)
    framed = np.pad(values, ((above, tall - above), (left, wide - left), (0, 0)))
    top, start = (framed.shape[0] - height) // 2, (framed.shape[1] - width) // 2
    return framed[top : top + height, start : start + width]


def _encode(vae: AutoencoderKL, pixels: Tensor, noise: Tensor) -> Tensor:
    """A draw from the VAE's posterior, with neither scaling factor nor shift: [4, s, s]."""
    mean, log_variance = vae.quant_conv(vae.encoder(pixels[None]))[0].chunk(2)
    return mean + (0.5 * log_variance).exp() * noise


def _embed_prompt(folder: Path, prompt: str) -> Tensor:
    """[77, D]: start, words, end, then padding, all of it attended to as if it were text."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    vocabulary = _read_json(folder / "tokenizer" / "vocab.json")
    special = _read_json(folder / "tokenizer" / "special_tokens_map.json")
    start, end, pad = (
        vocabulary[entry["content"] if isinstance(entry, dict) else entry]
        for entry in (special["bos_token"], special["eos_token"], special["pad_token"])
    )
    words = tokenizer(prompt, add_special_tokens=False).input_ids[:75]
    tokens = [start, *words, end]
    tokens += [pad] * (77 - len(tokens))
    model = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
    return model(torch.tensor([tokens])).last_hidden_state[0]


def _embed_picture(folder: Path, picture: np.ndarray) -> Tensor:
    """[1, D]: CLIP's projected embedding."""
    model = CLIPVisionModelWithProjection.from_pretrained(folder / "vision_encoder").float().eval()
    return model(prepare_picture(picture, folder / "feature_extractor_clip")[None]).image_embeds


def _reference_network(unet: UNet2DConditionModel) -> Callable[[Tensor, Tensor, int, Tensor], Tensor]:
    """The UNet as a function (x, reference, timestep, context) -> velocity, in which ``x`` also sees ``reference``.

    The UNet first runs on the reference, where every self-attention notes what it is given; then on ``x``, where every
    self-attention finds that note among its keys and values.
    """
    notes: dict[str, Tensor] = {}
    reading = False

    def replace(name: str, attention: Any) -> None:
        def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
            if reading:
                seen = torch.cat([hidden, notes[name]], dim=1)
            else:
                notes[name] = seen = hidden
            query = _split_heads(attention.to_q(hidden), attention.heads)
            key = _split_heads(attention.to_k(seen), attention.heads)
            value = _split_heads(attention.to_v(seen), attention.heads)
            weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
            return attention.to_out[0]((weights @ value).transpose(1, 2).flatten(2))

        attention.forward = forward

    for name, module in unet.named_modules():
        if name.endswith(".attn1"):
            replace(name, module)

    def predict(x: Tensor, reference: Tensor, timestep: int, context: Tensor) -> Tensor:
        nonlocal reading
        reading = False
        unet(reference[None], timestep, context[None])
        reading = True
        return unet(x[None], timestep, context[None]).sample[0]

    return predict


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[1, n, heads * d] -> [1, heads, n, d]"""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
