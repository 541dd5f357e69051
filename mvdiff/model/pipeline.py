"""Pictures in, six views of each out."""

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mvdiff.errors import InputError
from mvdiff.model.compilation import Compilation, CompileCache, compiled, refuse_compiling
from mvdiff.model.folder import load
from mvdiff.model.layers import norm_by_channel
from mvdiff.model.multiview import MultiViewModel, unet_pass
from mvdiff.model.noise import SampleNoise
from mvdiff.model.precompiled import Precompiled
from mvdiff.model.sampler import Blanks, Sampling, sample
from mvdiff.model.space import KLSpace
from mvdiff.placement import framed
from mvdiff.rig import VIEWS

PRECISIONS: dict[str, torch.dtype | None] = {"no": None, "bf16": torch.bfloat16}


class MultiViewPipeline:
    """A trained model and its sampler. The model is put on the device and into evaluation mode, its weights stay.

    ``MultiViewPipeline.from_pretrained(folder)(pictures, seeds=range(len(pictures)))`` gives uint8 [B, 6, H, W, 3]:
    view ``k`` is seen from the rig's ``k``-th camera, the picture being what camera ``reference_view`` sees.
    """

    def __init__(self, model: MultiViewModel, device: torch.device | str = "cpu", mixed_precision: str = "no") -> None:
        if mixed_precision not in PRECISIONS:
            raise InputError(f"mixed precision {mixed_precision!r}", f"choose {' or '.join(PRECISIONS)}")
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self._autocast = PRECISIONS[mixed_precision]
        self._filled: int | None = None
        self._blanks: Blanks | None = None
        """Only where nobody else can change the weights."""

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        device: torch.device | str = "cpu",
        mixed_precision: str = "no",
        compiling: bool = False,
    ) -> Self:
        """The model saved in ``folder`` (a checkpoint); ``InputError`` where there is none.

        It is kept in the lower precision as well: nobody else holds its weights. Say ``compiling`` where ``compile``
        comes next: what that imports, which takes a second, is imported while the weights are copied.
        """
        with ThreadPoolExecutor(1) as beside:
            # the copy is in the thread, since it imports nothing: two imports at once may see each other half done
            moved = beside.submit(load(Path(folder)).to, device)
            if compiling:
                importlib.import_module("torch._inductor.compile_fx")
            pipeline = cls(moved.result(), device, mixed_precision)
        pipeline.own()
        return pipeline

    def own(self) -> None:
        """The model is this pipeline's alone from now on: keep its weights, and what follows from them, as is best."""
        lower(self.model, self._autocast)
        self._blanks = Blanks()

    @torch.inference_mode()
    def compile(
        self,
        batch: int,
        sampler: str | None = None,
        guidance: float | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Compilation:
        """Compile for calls of up to ``batch`` pictures with this ``sampler`` and ``guidance``, and be ready for them.

        Fewer pictures are filled up to ``batch``, since other shapes would be compiled anew. Of several processes on a
        node one compiles, the others find its work in a cache; ``tell`` hears if that must be waited for. Raises
        ``InputError`` where this machine cannot compile, or where the cache is not this user's alone.
        """
        settings = self.model.settings
        refuse_compiling(self.device)
        if batch < 1:
            raise InputError(f"compiling for {batch} pictures", "give 1 or more")
        sampling = self._sampling(1, sampler, guidance)
        coders = [self.model.vae.encoder, self.model.vae.decoder] if isinstance(self.model.space, KLSpace) else []
        parts = [self.model.unet, *coders]
        facts = {
            "layout": settings.layout, "camera": settings.camera, "reference": settings.reference,
            "size": settings.size, "condition_size": settings.condition_size, "batch": batch,
            "dtype": str(self._autocast), "guided": sampling.guidance != 1,
            "parts": [{key: one for key, one in dict(part.config).items() if key[0] != "_"} for part in
                      (self.model.unet, self.model.vae)],
        }  # fmt: skip
        if self.device.type == "cuda":
            for part in parts:
                # as the compiled convolutions take their weights, which are otherwise brought to it at every call
                part.to(memory_format=torch.channels_last)

        def call() -> None:
            self._forget()
            self._filled = batch
            self.model.unet_pass = Precompiled(unet_pass, self.model.unet)
            norm_by_channel(*parts)
            for part in coders:
                part.forward = Precompiled(type(part).forward, part)
            white = [np.full((settings.size, settings.size, 3), 255, np.uint8)] * batch
            with self._autocasting():
                # first, since it runs longest: the others are loaded meanwhile
                self.model.space.decode(torch.zeros(batch, *self.model.noise_shapes["views"], device=self.device))
                self.sample(white, [0] * batch, sampling)

        before = self.model.unet_pass
        try:
            return compiled(CompileCache.of(self.device, facts), call, tell)
        except BaseException as error:
            self._uncompile(before, coders)
            if isinstance(error, torch.OutOfMemoryError):
                raise InputError(
                    f"a compiled call of {batch} samples does not fit this GPU", "lower generate.batch"
                ) from error
            raise

    def _uncompile(self, unet_pass: Callable[..., Any], coders: Sequence[nn.Module]) -> None:
        self._forget()
        self._filled, self.model.unet_pass = None, unet_pass
        for part in coders:
            vars(part).pop("forward", None)

    def _forget(self) -> None:
        """Make anew what is kept from call to call: other kernels round otherwise."""
        if self._blanks is not None:
            self._blanks = Blanks()

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        progress: Callable[[int], None] = lambda steps: None,
        reference_view: int = 0,
        masks: Sequence[NDArray[Any] | None] | None = None,
        sampler: str | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
    ) -> NDArray[np.uint8]:
        """Six views uint8 [B, 6, size, size, 3] of each of ``images``.

        An image is uint8 [H, W], [H, W, 3], or [H, W, 4] with alpha, of any size; where it has another background than
        white, give its alpha or a mask ([H, W], bool or uint8): it is framed as training frames its pictures
        (``mvdiff.placement.framed``). A sample's noise comes from its own seed alone, so its views do not depend on
        what else is in the batch. ``steps``, ``guidance`` (1: none) and ``sampler`` default to the model's;
        ``guidance_rescale`` and ``guidance_interval`` are explained at ``Sampling``; ``progress`` is called with 1
        after each step. Raises ``InputError`` for pictures of another kind, for a number of seeds or masks that is not
        that of the pictures, for steps or a view out of range, and ``FloatingPointError`` where sampling ends in what
        is no number.
        """
        settings = self.model.settings
        sampling = self._sampling(steps, sampler, guidance, guidance_rescale, guidance_interval)
        if isinstance(images, np.ndarray) and images.ndim < 4:
            raise InputError("one picture was given", "give a list of pictures, and a seed for each")
        masks = [None] * len(images) if masks is None else masks
        if len(images) != len(seeds) or len(images) != len(masks):
            raise InputError(
                f"{len(images)} pictures, {len(seeds)} seeds and {len(masks)} masks", "give one seed a picture"
            )
        for seed in seeds:
            if not isinstance(seed, Integral):
                raise InputError(f"the seed {seed!r} is no whole number", "give one integer a picture")
        if not isinstance(reference_view, Integral) or not 0 <= reference_view < VIEWS:
            raise InputError(f"reference view {reference_view}", f"choose 0 to {VIEWS - 1}")
        settings.refuse_turned_tile(reference_view > 0, f"reference view {reference_view}")
        sampling.scheduler(self.model)
        if len(images) == 0:
            return np.zeros((0, VIEWS, settings.size, settings.size, 3), np.uint8)
        seen = [
            framed(image, settings.size, self.model.placement, mask) for image, mask in zip(images, masks, strict=True)
        ]
        latents, views = self._views(seen, seeds, sampling, progress, reference_view)
        if not latents.isfinite().all():
            raise FloatingPointError("the sampler's latents are not finite")
        if self.model.tiled:
            views = views.roll(reference_view, 1)
        return _on_host(views).numpy()

    def _sampling(
        self,
        steps: int | None,
        sampler: str | None,
        guidance: float | None,
        rescale: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> Sampling:
        settings = self.model.settings
        return Sampling(
            settings.sampler if sampler is None else sampler,
            settings.steps if steps is None else steps,
            settings.guidance if guidance is None else guidance,
            rescale,
            interval,
        )

    def _views(
        self,
        seen: Sequence[NDArray[np.uint8]],
        seeds: Sequence[int],
        sampling: Sampling,
        progress: Callable[[int], None] = lambda steps: None,
        reference_view: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Latents float [B, 6, C, h, w] of the framed pictures ``seen``, and views uint8 [B, 6, H, W, 3] of those."""
        samples = len(seen)
        if self._filled is not None:
            if samples > self._filled:
                raise InputError(f"{samples} pictures in a call", f"give {self._filled}: it was compiled for so many")
            # with one of their own: where a picture cannot be sampled, others are not blamed for what fills up
            seen = [*seen, *[seen[0]] * (self._filled - samples)]
            seeds = [*seeds, *[seeds[0]] * (self._filled - samples)]
        with self._autocasting():
            latents = self.sample(seen, seeds, sampling, progress, reference_view)
            return latents[:samples], self.model.space.decode(latents)[:samples]

    def _autocasting(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None)

    def sample(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        seeds: Sequence[int],
        sampling: Sampling,
        progress: Callable[[int], None] = lambda steps: None,
        reference_view: int = 0,
    ) -> Tensor:
        """View latents float [B, 6, C, h, w] of framed ``pictures`` uint8 [size, size, 3]."""
        reference, glance = (
            torch.from_numpy(np.stack(resized)).to(self.device)
            for resized in zip(*map(self.model.sight, pictures), strict=True)
        )
        cameras = torch.from_numpy(self.model.settings.cameras.relative(reference_view)).to(self.device)
        return sample(
            self.model,
            reference,
            glance,
            cameras.expand(len(pictures), -1, -1),
            SampleNoise(seeds, self.device),
            sampling,
            progress,
            self._blanks,
            self._filled,
        )


def _on_host(views: Tensor) -> Tensor:
    if not views.is_cuda:
        return views
    # into memory that is pinned copies run at the bus's speed
    return torch.empty(views.shape, dtype=views.dtype, pin_memory=True).copy_(views)


def lower(model: MultiViewModel, dtype: torch.dtype | None) -> None:
    """Store in ``dtype`` the weights that autocast would cast to it at every use; those of norms stay float32.

    None, where there is no autocast, changes nothing.
    """
    if dtype is None:
        return
    for part in (model.unet, model.vae, model.vision_encoder):
        for module in part.modules() if part is not None else ():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
