"""The multi-view model: a stock diffusers UNet over six view latents, joined by attention, told its cameras."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from mvdiff.model import attention
from mvdiff.model.attention import Joint
from mvdiff.model.batch import TrainingBatch
from mvdiff.model.camera import CameraEmbedding
from mvdiff.model.context import LearnedContext, PromptContext
from mvdiff.model.latents import PatchLatents
from mvdiff.model.layout import tile, untile
from mvdiff.model.settings import ModelSettings
from mvdiff.model.space import KLSpace, LatentSpace, PatchSpace
from mvdiff.model.vision import Sight, clip_input
from mvdiff.model.word import NewWord
from mvdiff.placement import Placement
from mvdiff.rig import VIEWS


@dataclass
class Reference:
    """Condition pictures as the frozen parts of the model see them."""

    latents: Tensor
    """float [B, C, s, s]"""
    embedding: Tensor | None
    """float [B, width], the vision encoder's; None where the model has none."""


@dataclass
class Encoded:
    """A training batch as the frozen parts of the model see it."""

    views: Tensor
    """float [B, 6, C, h, w]"""
    reference: Reference
    blank: Tensor
    """float [B or 1, C, s, s]"""


@dataclass
class Condition:
    """What the views of a pass see of the condition picture."""

    latents: Tensor
    """float [B, C, s, s], or [1, C, s, s] for all samples alike; blank where the condition is dropped."""
    context: Tensor
    """float [B, tokens, width], or [1, ...], for cross-attention."""
    seen: dict[str, Tensor]
    """What the reference pass left for each self-attention layer: float [B, s s, width], or [1, ...]."""

    def rows(self, number: int) -> list["Condition"]:
        """One of each of the first ``number`` rows that a pass left, of latents and context that all of them share.

        The memory of further ones can be let go.
        """
        wanted = [one if number == len(one) else one[:number].clone() for one in self.seen.values()]
        return [
            Condition(self.latents, self.context, dict(zip(self.seen, row, strict=True)))
            for row in zip(*(one.split(1) for one in wanted), strict=True)
        ]


def unet_pass(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    timestep: Tensor,
    context: Tensor,
    labels: Tensor | None,
    seen: dict[str, Tensor],
    views: int,
    keep: bool,
    rides: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What ``unet`` makes of ``noisy`` float [N, channels, h, w], every ``views`` rows of which are one sample.

    Float [N, C, h, w], and with ``keep`` the input of each self-attention layer: float [N, h w, width]. The reference
    is ``seen``, such inputs of an earlier pass, or, where it ``rides``, the last row of each sample. ``labels`` float
    [N, width] are added to the timestep's embedding.
    """
    joint = Joint(views, dict(seen), keep, rides)
    predicted = unet(
        noisy, timestep, encoder_hidden_states=context, class_labels=labels, cross_attention_kwargs={"joint": joint}
    ).sample
    return predicted, joint.reference if keep else {}


class MultiViewModel(nn.Module):
    """Six views through one UNet, side by side in the batch axis or as one tile (``layout.py``).

    The views of a sample and the tokens of its condition meet in self-attention (``attention.py``), each view's camera
    enters as ``camera.py`` says, the condition as a whole reaches every view by cross-attention (``context.py``). The
    UNet predicts v (Salimans and Ho 2022, appendix D). Latents are [B, 6, C, h, w] everywhere but inside a tile.
    """

    signal: Tensor
    """float32 [T], the share of the clean latents at each timestep: sqrt(alpha bar)."""
    spread: Tensor
    """float32 [T], the share of the noise at each timestep: sqrt(1 - alpha bar)."""

    def __init__(
        self,
        settings: ModelSettings,
        *,
        unet: UNet2DConditionModel,
        vae: Any,
        context: LearnedContext | PromptContext,
        scheduler: Any,
        slots: Sequence[int],
        placement: Placement,
        origin: Mapping[str, str],
        camera: CameraEmbedding | None = None,
        vision_encoder: CLIPVisionModelWithProjection | None = None,
        word: NewWord | None = None,
    ) -> None:
        """``vae`` is a ``PatchLatents`` or an ``AutoencoderKL``, ``scheduler`` one of diffusers'."""
        super().__init__()
        self.settings = settings
        self.unet, self.camera, self.context, self.word = unet, camera, context, word
        self.vae = vae.requires_grad_(False)
        self.vision_encoder = vision_encoder.requires_grad_(False) if vision_encoder is not None else None
        self.scheduler = scheduler
        self.slots = tuple(slots)
        self.placement = placement
        self.origin = dict(origin)
        """What the weights derive from: name, family (``zero123plus`` or ``stable-diffusion``) and hash, and the last
        checkpoint in between, if any; empty for nothing."""
        self.tiled = settings.layout == "tile"
        self.space: LatentSpace = (
            PatchSpace(vae) if isinstance(vae, PatchLatents) else KLSpace(vae, self.slots if self.tiled else None)
        )
        if isinstance(context, PromptContext):
            context.prompt.requires_grad_(settings.prompt == "learnable")
            context.register_to_config(learned=context.config["learned"] or settings.prompt != "text")
        attention.install(unet)
        self.unet_pass: Callable[..., tuple[Tensor, dict[str, Tensor]]] = partial(unet_pass, unet)
        """Of the arguments that follow the UNet there; compiled, where there is a compiled one."""
        self.both_passes: Callable[..., Tensor] = MultiViewModel._both_passes
        """Of the model and the arguments that follow there; compiled, where there is a compiled one."""
        kept = scheduler.alphas_cumprod
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)
        self.register_buffer("spread", (1 - kept).sqrt().float(), persistent=False)

    @property
    def num_train_timesteps(self) -> int:
        """Timesteps of a training batch lie in [0, this)."""
        return len(self.signal)

    @property
    def sight(self) -> Sight:
        """How condition pictures are resized for this model."""
        glance: Any = self.vision_encoder.config.image_size if self.vision_encoder is not None else 0
        return Sight(self.settings.condition_size, glance)

    @property
    def noised_reference(self) -> bool:
        """Whether the condition is noised like the views, and its pass repeated at every timestep."""
        return self.settings.reference == "noised"

    @property
    def noise_shapes(self) -> dict[str, tuple[int, ...]]:
        """What a training sample takes of standard normal noise, by name."""
        channels = self.space.channels
        views = (VIEWS, channels, *[self.settings.size // self.space.factor] * 2)
        reference = (channels, *[self.settings.condition_size // self.space.factor] * 2)
        shapes: dict[str, tuple[int, ...]] = {"views": views}
        if self.noised_reference:
            shapes["reference"] = reference
        if self.space.samples:
            shapes |= {"views_posterior": views, "reference_posterior": reference}
        return shapes

    def forward(self, batch: TrainingBatch, encoded: Encoded | None = None) -> Tensor:
        """Loss float [B] of each sample: the mean square error of v over its six views.

        ``encoded`` where the frozen parts have seen the batch already.
        """
        return self.loss(batch, self.encoded(batch) if encoded is None else encoded)

    @torch.no_grad()
    def encoded(self, batch: TrainingBatch) -> Encoded:
        """What the frozen parts make of ``batch``."""
        views, reference, blank = self.space.encode_together(
            batch.views, batch.reference, batch.noise.get("views_posterior"), batch.noise.get("reference_posterior")
        )
        return Encoded(views.float(), Reference(reference.float(), self._glanced(batch.glance)), blank.float())

    def loss(self, batch: TrainingBatch, encoded: Encoded) -> Tensor:
        """As ``forward``, of which it is what is trained."""
        clean, noise = encoded.views, batch.noise["views"]
        signal, spread = (level[batch.timestep].view(-1, 1, 1, 1, 1) for level in (self.signal, self.spread))
        noisy = signal * clean + spread * noise
        target = signal * noise - spread * clean
        latents, context = self._given(encoded.reference, encoded.blank, batch.dropped)
        predicted = self.both_passes(
            self, noisy, batch.timestep, batch.cameras, latents, context, batch.noise.get("reference")
        )
        return functional.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3, 4))

    def refer(self, pictures: Tensor, glance: Tensor, noise: Tensor | None) -> Reference:
        """What the frozen parts make of condition ``pictures`` uint8 [B, S, S, 3] and ``glance`` uint8 [B, g, g, 3].

        ``noise`` float [B, C, s, s] where latents are drawn from a posterior.
        """
        return Reference(self.space.encode_reference(pictures, noise).float(), self._glanced(glance))

    def _glanced(self, glance: Tensor) -> Tensor | None:
        """The vision encoder's embedding."""
        if self.vision_encoder is None:
            return None
        seen = self.vision_encoder(clip_input(glance).to(self.vision_encoder.dtype)).image_embeds
        # a copy: what a CUDA graph returns is gone when the next one runs
        return seen.to(torch.float32, copy=True)

    def blank(self, noise: Tensor | None, rows: int = 1) -> Tensor:
        """Reference latents float [N or 1, C, s, s] of a dropped condition; ``noise`` float [N, C, s, s] as above.

        The blank picture is encoded ``rows`` times at once, for an encoder that is compiled for so many.
        """
        return self.space.blank_reference(self.settings.condition_size // self.space.factor, noise, rows).float()

    def condition(
        self, reference: Reference, blank: Tensor, timestep: Tensor, noise: Tensor | None, dropped: Tensor
    ) -> Condition:
        """What the views see of ``reference``: its context and what its own pass through the UNet leaves.

        ``noise`` float [B, C, s, s] is used where settings say that the reference is noised at ``timestep`` int64 [B];
        a clean reference is seen at timestep 0, whatever the views' timestep. Where ``dropped`` (bool [B]) is set, the
        condition is the unconditional one: the latents ``blank`` and the empty prompt.
        """
        latents, context = self._given(reference, blank, dropped)
        return self._seen(latents, context, timestep, noise)

    def _given(self, reference: Reference, blank: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and context of ``reference``, or the unconditional ones."""
        latents = torch.where(dropped[:, None, None, None], blank, reference.latents)
        context = self.context(latents, reference.embedding, dropped, self.word() if self.word is not None else None)
        return latents, context

    def unconditional(self, blank: Tensor, timestep: Tensor, noise: Tensor | None) -> Condition:
        """What every sample sees whose condition is dropped: one row a timestep, each to be shared by a whole batch.

        ``blank`` float [1, C, s, s], ``timestep`` int64 [N], ``noise`` float [N, C, s, s].
        """
        rows = len(timestep)
        dropped = torch.ones(1, dtype=torch.bool, device=blank.device)
        context = self.context(blank, None, dropped, None)
        latents, shared = blank.expand(rows, -1, -1, -1), context.expand(rows, -1, -1).contiguous()
        return Condition(blank, context, self._seen(latents, shared, timestep, noise).seen)

    def _seen(self, latents: Tensor, context: Tensor, timestep: Tensor, noise: Tensor | None) -> Condition:
        """The reference pass, of a row a timestep."""
        shown, timestep = self._shown(latents, timestep, noise)
        # however they lie in memory, one compiled graph serves the condition and the unconditional one
        shown = shown.contiguous()
        here = torch.zeros(len(shown), 4, device=latents.device)
        _, kept = self._unet(shown, latents, timestep, context, None if self.tiled else here, {}, views=1, keep=True)
        return Condition(latents, context, kept)

    def _both_passes(
        self, noisy: Tensor, timestep: Tensor, cameras: Tensor, latents: Tensor, context: Tensor, noise: Tensor | None
    ) -> Tensor:
        """As ``predict_v``, after the reference pass: compiled as one, both share what is made of the weights.

        A reference of the views' size goes through the network with them, as one more row of each sample: all but
        attention treats a row by itself.
        """
        if self.tiled or latents.shape[-2:] != noisy.shape[-2:]:
            return self.predict_v(noisy, timestep, cameras, self._seen(latents, context, timestep, noise))
        rows = noisy.shape[1] + 1
        shown, then = self._shown(latents, timestep, noise)
        predicted, _ = self._unet(
            torch.cat([noisy, shown[:, None]], 1).flatten(0, 1),
            latents.repeat_interleave(rows, 0),
            torch.stack([*[timestep] * (rows - 1), then], 1).flatten(),
            context,
            functional.pad(cameras, (0, 0, 0, 1)).flatten(0, 1),
            {},
            views=rows,
            rides=True,
        )  # [B 7, C, h, w]
        return predicted.unflatten(0, (-1, rows))[:, :-1]

    def _shown(self, latents: Tensor, timestep: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reference ``latents`` float [B, C, s, s] as the network gets to see them, and at which timestep int64 [B]."""
        if not self.noised_reference:
            return latents, torch.zeros_like(timestep)
        assert noise is not None
        signal, spread = (level[timestep].view(-1, 1, 1, 1) for level in (self.signal, self.spread))
        return signal * latents + spread * noise, timestep

    def predict_v(self, noisy: Tensor, timestep: Tensor, cameras: Tensor, condition: Condition) -> Tensor:
        """v float [B, 6, C, h, w] of ``noisy`` latents of the same shape.

        ``timestep`` int64 [B], ``cameras`` float [B, 6, 4] relative to the reference; a tile's slots are its cameras.
        """
        samples, views = noisy.shape[:2]
        # contiguous, a condition that all samples share is as one a sample: one compiled graph serves both
        latents = condition.latents.expand(samples, -1, -1, -1).contiguous()
        context = condition.context.expand(samples, -1, -1).contiguous()
        seen = {name: one.expand(samples, -1, -1).contiguous() for name, one in condition.seen.items()}
        if self.tiled:
            predicted, _ = self._unet(tile(noisy, self.slots), latents, timestep, context, None, seen, views=1)
            return untile(predicted, self.slots)
        predicted, _ = self._unet(
            noisy.flatten(0, 1),
            latents.repeat_interleave(views, 0),
            timestep.repeat_interleave(views),
            context,
            cameras.flatten(0, 1),
            seen,
            views=views,
        )  # [B 6, C, h, w]
        return predicted.unflatten(0, (-1, views))

    def _unet(
        self,
        noisy: Tensor,
        latents: Tensor,
        timestep: Tensor,
        context: Tensor,
        cameras: Tensor | None,
        seen: dict[str, Tensor],
        views: int,
        keep: bool = False,
        rides: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``unet_pass``; ``latents`` are the condition's, ``cameras`` float [N, 4] or None.

        ``context`` is of N rows, or one for every few consecutive rows.
        """
        channels, labels = [noisy], None
        if self.settings.new is not None and self.settings.new.condition_channels:
            channels.append(latents)
        if self.camera is not None and cameras is not None:
            injected = self.camera(cameras)
            if self.camera.injection == "adaln":
                labels = injected
            elif self.camera.injection == "cross_attention":
                context = context.repeat_interleave(len(cameras) // len(context), 0) + self.camera.into_tokens(injected)
            else:
                channels.append(self.camera.into_channels(injected, *noisy.shape[-2:]))
        noisy = torch.cat(channels, 1) if len(channels) > 1 else noisy
        return self.unet_pass(noisy, timestep, context, labels, seen, views, keep, rides)

    def twin(self) -> Self:
        """A copy whose trained weights are its own, while both share what is frozen."""
        frozen: dict[int, Any] = {id(p): p for p in self.parameters() if not p.requires_grad}
        frozen |= {id(b): b for b in self.buffers()}
        return copy.deepcopy(self, frozen)

    def train(self, mode: bool = True) -> Self:
        """As in torch; what is frozen stays in evaluation mode."""
        super().train(mode)
        for frozen in (self.vae, self.vision_encoder, self.word):
            if frozen is not None:
                frozen.eval()
        return self
