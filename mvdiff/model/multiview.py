"""The multi-view model: a stock diffusers UNet over six view latents, joined by attention, told its cameras."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mvdiff.model import attention, folder
from mvdiff.model.attention import Joint
from mvdiff.model.batch import TrainingBatch
from mvdiff.model.camera import CameraEmbedding
from mvdiff.model.context import ContextEncoder
from mvdiff.model.latents import PatchLatents
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import VIEWS


@dataclass
class Condition:
    """What the views of a pass see of the condition picture."""

    latents: Tensor
    """float [B, C, h, w], blank where the condition is dropped."""
    context: Tensor
    """float [B, tokens, width], for cross-attention."""
    seen: dict[str, Tensor]
    """What the reference pass left for each self-attention layer: float [B, h w, width]."""


class MultiViewModel(nn.Module):
    """Six views in the batch axis of one UNet.

    The views of a sample and the tokens of its condition meet in self-attention (``attention.py``), each view's camera
    is added to the time embedding (``class_embed_type="identity"``), the condition as a whole reaches every view by
    cross-attention (``context.py``). The UNet predicts v (Salimans and Ho 2022, appendix D).
    """

    signal: Tensor
    """float32 [T], the share of the clean latents at each timestep: sqrt(alpha bar)."""
    spread: Tensor
    """float32 [T], the share of the noise at each timestep: sqrt(1 - alpha bar)."""

    def __init__(
        self,
        settings: ModelSettings,
        unet: UNet2DConditionModel,
        vae: PatchLatents,
        camera: CameraEmbedding,
        context: ContextEncoder,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.unet, self.camera, self.context = unet, camera, context
        self.vae = vae.requires_grad_(False)
        self.scheduler = scheduler
        attention.install(unet)
        kept = scheduler.alphas_cumprod
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)
        self.register_buffer("spread", (1 - kept).sqrt().float(), persistent=False)

    @classmethod
    def create(cls, settings: ModelSettings, views: Iterable[NDArray[np.uint8]], seed: int) -> Self:
        """A model with random weights and a latent space fitted on ``views`` (each uint8 [6, H, W, 3]).

        The same settings, views and seed give the same model; torch's global generator is left as it was.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vae = PatchLatents.fit(
                views,
                patch=settings.patch,
                channels=settings.latent_channels,
                whitening=settings.latent_whitening,
                deviation=settings.latent_deviation,
                floor=settings.latent_floor,
            )
            unet = UNet2DConditionModel(
                sample_size=settings.grid,
                in_channels=settings.latent_channels * (1 + settings.condition_channels),
                out_channels=settings.latent_channels,
                block_out_channels=settings.widths,
                down_block_types=["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in settings.attention],
                up_block_types=["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(settings.attention)],
                mid_block_type=_middle(settings),
                layers_per_block=settings.layers_per_block,
                # diffusers calls the number of heads of each resolution `attention_head_dim`.
                attention_head_dim=[max(1, width // settings.head_width) for width in settings.widths],
                norm_num_groups=settings.norm_groups,
                cross_attention_dim=settings.context_width,
                use_linear_projection=True,
                class_embed_type="identity",
            )
            camera = CameraEmbedding(width=4 * settings.widths[0])
            context = ContextEncoder(
                latent_channels=settings.latent_channels,
                grid=settings.condition_grid,
                tokens=settings.context_tokens,
                width=settings.context_width,
            )
        scheduler = DDIMScheduler(
            num_train_timesteps=settings.timesteps,
            beta_start=settings.beta_start,
            beta_end=settings.beta_end,
            beta_schedule=settings.beta_schedule,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=settings.zero_terminal_snr,
            clip_sample=False,
            set_alpha_to_one=True,
        )
        return cls(settings, unet, vae, camera, context, scheduler)

    @property
    def num_train_timesteps(self) -> int:
        """Timesteps of a training batch lie in [0, this)."""
        return self.settings.timesteps

    @property
    def noise_rows(self) -> int:
        """Rows of noise that one sample takes: one a view, and one for a reference that is noised too."""
        return VIEWS + (self.settings.reference == "noised")

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of one view of ``size`` pixels."""
        return self.settings.latent_channels, size // self.settings.patch, size // self.settings.patch

    def forward(self, batch: TrainingBatch) -> Tensor:
        """Loss float [B] of each sample: the mean square error of v over its six views."""
        samples = len(batch.sample_ids)
        clean = self.vae.encode(batch.views.flatten(0, 1)).unflatten(0, (samples, VIEWS))  # [B, 6, C, h, w]
        noise = batch.noise[:, :VIEWS]
        signal, spread = (level[batch.timestep].view(-1, 1, 1, 1, 1) for level in (self.signal, self.spread))
        noisy = signal * clean + spread * noise
        target = signal * noise - spread * clean
        reference = self.vae.encode(batch.reference)
        condition = self.condition(reference, batch.timestep, batch.noise[:, VIEWS:], batch.dropped)
        predicted = self.predict_v(noisy, batch.timestep, batch.azimuth, batch.elevation, condition)
        return functional.mse_loss(predicted, target, reduction="none").mean((1, 2, 3, 4))

    def condition(self, reference: Tensor, timestep: Tensor, noise: Tensor, dropped: Tensor) -> Condition:
        """What the views see of reference latents float [B, C, h, w]: their context and the reference pass.

        ``noise`` float [B, 1, C, h, w] is used where settings say that the reference is noised at ``timestep`` int64
        [B]; a clean reference is seen at timestep 0, whatever the views' timestep. Where ``dropped`` (bool [B]) is set,
        the condition is the unconditional one: a blank picture and the empty prompt.
        """
        latents = torch.where(dropped[:, None, None, None], torch.zeros_like(reference), reference)
        context = self.context(latents, dropped)
        if self.settings.reference == "noised":
            signal, spread = (level[timestep].view(-1, 1, 1, 1) for level in (self.signal, self.spread))
            shown = signal * latents + spread * noise[:, 0]
        else:
            shown, timestep = latents, torch.zeros_like(timestep)
        joint = Joint(views=1, keep=True)
        here = torch.zeros(len(latents), device=latents.device)
        self.unet(
            self._input(shown, latents),
            timestep,
            encoder_hidden_states=context,
            class_labels=self.camera(here, here),
            cross_attention_kwargs={"joint": joint},
        )
        return Condition(latents, context, joint.reference)

    def predict_v(
        self, noisy: Tensor, timestep: Tensor, azimuth: Tensor, elevation: Tensor, condition: Condition
    ) -> Tensor:
        """v float [B, 6, C, h, w] of ``noisy`` latents of the same shape.

        ``timestep`` int64 [B], ``azimuth`` and ``elevation`` float [B, 6] in degrees relative to the reference.
        """
        views = noisy.shape[1]
        predicted = self.unet(
            self._input(noisy.flatten(0, 1), condition.latents.repeat_interleave(views, 0)),
            timestep.repeat_interleave(views),
            encoder_hidden_states=condition.context.repeat_interleave(views, 0),
            class_labels=self.camera(azimuth, elevation).flatten(0, 1),
            cross_attention_kwargs={"joint": Joint(views=views, reference=condition.seen)},
        ).sample  # [B 6, C, h, w]
        return predicted.unflatten(0, (-1, views))

    def _input(self, latents: Tensor, condition: Tensor) -> Tensor:
        """float [N, C, h, w], the UNet's input; [N, 2 C, h, w] with the condition's latents where settings say so."""
        return torch.cat([latents, condition], 1) if self.settings.condition_channels else latents

    def save_pretrained(self, path: Path) -> None:
        """Write diffusers' folder layout into ``path``: safetensors and JSON only."""
        folder.write(path, self.settings, self.components())

    @classmethod
    def from_pretrained(cls, path: Path) -> Self:
        """The model that ``save_pretrained`` wrote; ``InputError`` where ``path`` does not hold one."""
        settings, components = folder.read(path)
        return cls(settings, **components)

    def components(self) -> dict[str, folder.Component]:
        """The parts that are saved, by folder name."""
        return {name: getattr(self, name) for name in folder.COMPONENTS}


def _middle(settings: ModelSettings) -> str | None:
    if not settings.middle:
        return None
    return "UNetMidBlock2DCrossAttn" if settings.attention[-1] else "UNetMidBlock2D"
