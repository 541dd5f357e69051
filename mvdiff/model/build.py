"""New models: from published weights, from a checkpoint, or from nothing."""

from collections.abc import Callable, Iterable
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mvdiff.model import folder, published
from mvdiff.model.camera import CHANNELS, CameraEmbedding
from mvdiff.model.component import read_component
from mvdiff.model.context import LearnedContext, PromptContext
from mvdiff.model.latents import PatchLatents
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.origin import Origin, origin
from mvdiff.model.pretrained import Pretrained
from mvdiff.model.settings import RANDOM, ModelSettings, NewModel
from mvdiff.model.word import NewWord, TextEncoder
from mvdiff.placement import Placement


def create(settings: ModelSettings, views: Iterable[NDArray[np.uint8]], seed: int) -> MultiViewModel:
    """A model to be trained on data of which ``views`` (each uint8 [6, H, W, 3]) are a part.

    They say where the data show their subject, and a latent space made from nothing is fitted on them. Whatever has no
    pretrained weights is drawn from ``seed``: the same settings, views and seed give the same model; torch's global
    generator is left as it was. Raises ``InputError`` as ``origin`` does.
    """
    start = origin(settings)
    fitted, placed = tee(views)
    return _made(settings, start, seed, Placement.measured(placed), lambda new: _fitted(new, fitted))


def unfitted(settings: ModelSettings) -> MultiViewModel:
    """The architecture of ``settings``, fitted to nothing: for what depends on its tensors' shapes alone."""
    placement = Placement.measured(np.zeros((1, 1, 8, 8, 3), np.uint8))
    return _made(settings, origin(settings), 0, placement, lambda new: PatchLatents(new.patch, new.latent_channels, 0))


def _made(
    settings: ModelSettings,
    start: Origin,
    seed: int,
    placement: Placement,
    latents: Callable[[NewModel], PatchLatents],
) -> MultiViewModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if start.pretrained is None and settings.pretrained != RANDOM:
            assert settings.new is not None
            parts = _small(settings.new, settings, latents(settings.new))
        else:
            parts = _parts(start, settings)
        unet = parts["unet"]
        before = parts.pop("camera", None)
        _open(unet, settings, latent_channels=unet.config["out_channels"])
        parts["camera"] = _camera(unet, settings, before)
    return MultiViewModel(settings, slots=start.slots, placement=placement, origin=_origin(start), **parts)


def _origin(start: Origin) -> dict[str, str]:
    source = start.pretrained
    if source is None:
        return {}
    if source.kind == "mvdiff" and source.index["origin"]:
        return source.index["origin"] | {"through": f"{source.folder.name}, xxh3 {source.fingerprint()}"}
    family = "none" if source.kind == "mvdiff" else source.kind
    return {"name": source.name, "family": family, "xxh3": source.fingerprint()}


def _fitted(new: NewModel, views: Iterable[NDArray[np.uint8]]) -> PatchLatents:
    return PatchLatents.fit(
        views,
        patch=new.patch,
        channels=new.latent_channels,
        whitening=new.latent_whitening,
        deviation=new.latent_deviation,
        floor=new.latent_floor,
    )


def _small(new: NewModel, settings: ModelSettings, vae: PatchLatents) -> dict[str, Any]:
    unet = UNet2DConditionModel(
        sample_size=settings.size // new.patch,
        in_channels=new.latent_channels * (1 + new.condition_channels),
        out_channels=new.latent_channels,
        block_out_channels=new.widths,
        down_block_types=["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in new.attention],
        up_block_types=["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(new.attention)],
        mid_block_type=_middle(new),
        layers_per_block=new.layers_per_block,
        # diffusers calls the number of heads of each resolution `attention_head_dim`.
        attention_head_dim=[max(1, width // new.head_width) for width in new.widths],
        norm_num_groups=new.norm_groups,
        cross_attention_dim=new.context_width,
        use_linear_projection=True,
    )
    context = LearnedContext(
        latent_channels=new.latent_channels, grid=new.condition_grid, tokens=new.context_tokens, width=new.context_width
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=new.timesteps,
        beta_start=new.beta_start,
        beta_end=new.beta_end,
        beta_schedule=new.beta_schedule,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=new.zero_terminal_snr,
        clip_sample=False,
        set_alpha_to_one=True,
    )
    return {"unet": unet, "vae": vae, "context": context, "scheduler": scheduler}


def _parts(start: Origin, settings: ModelSettings) -> dict[str, Any]:
    if start.pretrained is None:
        return _random(settings)
    if start.pretrained.kind == "mvdiff":
        return _checkpoint(start.pretrained.folder, settings)
    return _published(start.pretrained, settings)


def _published(source: Pretrained, settings: ModelSettings) -> dict[str, Any]:
    path = source.folder
    parts: dict[str, Any] = {
        "unet": read_component(path / "unet", UNet2DConditionModel),
        "vae": read_component(path / "vae", AutoencoderKL),
        "scheduler": published.scheduler(source.config("scheduler")),
    }
    if source.kind == "zero123plus":
        parts["vision_encoder"] = read_component(path / "vision_encoder", CLIPVisionModelWithProjection)
    encoder = TextEncoder.from_pretrained(path)
    empty = encoder.encode("")
    if settings.prompt == "token":
        parts["word"] = NewWord(encoder, settings.prompt_text)
        prompt = parts["word"]().detach()
    else:
        prompt = encoder.encode(settings.prompt_text)
    parts["context"] = _context(prompt, empty, source.ramp, settings.prompt_text)
    return parts


def _random(settings: ModelSettings) -> dict[str, Any]:
    tokens, width = len(published.RAMP), published.UNET["cross_attention_dim"]
    return {
        "unet": UNet2DConditionModel(**published.UNET),
        "vae": AutoencoderKL(**published.VAE),
        "scheduler": EulerAncestralDiscreteScheduler(**published.SCHEDULER),
        "vision_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**published.VISION)),
        "context": _context(
            torch.randn(tokens, width), torch.randn(tokens, width), published.RAMP, settings.prompt_text
        ),
    }


def _checkpoint(path: Path, settings: ModelSettings) -> dict[str, Any]:
    parts = folder.parts(path)
    for name in ("settings", "slots", "placement", "origin"):
        del parts[name]
    return parts


def _context(prompt: Tensor, empty: Tensor, ramp: tuple[float, ...] | None, text: str) -> PromptContext:
    context = PromptContext(tokens=len(prompt), width=prompt.shape[1], text=text)
    with torch.no_grad():
        context.prompt.copy_(prompt)
        context.empty_prompt.copy_(empty)
        if ramp is not None:
            context.ramp.copy_(torch.tensor(ramp)[:, None])
    return context


def _open(unet: Any, settings: ModelSettings, latent_channels: int) -> None:
    """Make ``unet`` take what the camera injection of ``settings`` gives it, and nothing else; no weight is changed.

    The weights of new input channels are random: what ``CameraEmbedding`` sends through them starts at zero, and were
    both zero, each would keep the other's gradient there.
    """
    adaln = settings.camera == "adaln"
    unet.class_embedding = nn.Identity() if adaln else None
    unet.register_to_config(class_embed_type="identity" if adaln else None)
    beside = latent_channels if settings.new is not None and settings.new.condition_channels else 0
    wanted = latent_channels + beside + (CHANNELS if settings.camera == "concat" else 0)
    old = unet.conv_in
    if old.in_channels == wanted:
        return
    wider: Any = nn.Conv2d(wanted, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        wider.weight.normal_(std=float(old.weight.std()))
        kept = min(wanted, old.in_channels)
        wider.weight[:, :kept] = old.weight[:, :kept]
        wider.bias.copy_(old.bias)
    unet.conv_in = wider
    unet.register_to_config(in_channels=wanted)


def _camera(
    unet: UNet2DConditionModel, settings: ModelSettings, before: CameraEmbedding | None
) -> CameraEmbedding | None:
    if settings.camera == "none":
        return None
    if before is not None and before.injection == settings.camera:
        return before
    width = unet.time_embedding.linear_2.out_features
    context = int(unet.config["cross_attention_dim"])
    out = {"adaln": width, "cross_attention": context, "concat": CHANNELS}[settings.camera]
    tokens = settings.new.context_tokens if settings.new is not None else len(published.RAMP)
    return CameraEmbedding(width=width, injection=settings.camera, out=out, tokens=tokens)


def _middle(new: NewModel) -> str | None:
    if not new.middle:
        return None
    return "UNetMidBlock2DCrossAttn" if new.attention[-1] else "UNetMidBlock2D"
