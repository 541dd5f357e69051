"""Sampling: pictures in, six views of each out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mvdiff.errors import InputError
from mvdiff.model.multiview import Condition, MultiViewModel
from mvdiff.rig import VIEWS


class MultiViewPipeline:
    """A trained model and its sampler.

    ``MultiViewPipeline.from_pretrained(folder)(pictures, seeds=range(len(pictures)))`` gives uint8 [B, 6, H, W, 3]:
    view ``k`` is seen from the rig's ``k``-th camera, the picture being what camera ``reference_view`` sees.
    """

    def __init__(self, model: MultiViewModel, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str = "cpu") -> Self:
        """The model saved in ``folder`` (a checkpoint); ``InputError`` where there is none."""
        return cls(MultiViewModel.from_pretrained(Path(folder)), device)

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        progress: Callable[[int], None] | None = None,
        reference_view: int = 0,
    ) -> NDArray[np.uint8]:
        """Six views uint8 [B, 6, size, size, 3] of each of ``images`` (uint8 [H, W, 3], or 4 with alpha, any size).

        A sample's noise comes from its own seed alone, so its views do not depend on what else is in the batch.
        ``steps`` and ``guidance`` (1: none) default to the model's; ``progress`` is called with 1 after each step.
        Raises ``InputError`` for pictures of another kind for a number of seeds that is not that of the
        pictures, for steps or a view out of range.
        """
        settings = self.model.settings
        steps = settings.steps if steps is None else steps
        guidance = settings.guidance if guidance is None else guidance
        if len(images) != len(seeds):
            raise InputError(f"{len(images)} pictures and {len(seeds)} seeds", "give one seed a picture")
        if not 1 <= steps <= settings.timesteps:
            raise InputError(f"{steps} sampling steps", f"choose 1 to {settings.timesteps}")
        if not 0 <= reference_view < VIEWS:
            raise InputError(f"reference view {reference_view}", f"choose 0 to {VIEWS - 1}")
        if len(images) == 0:
            return np.zeros((0, VIEWS, settings.size, settings.size, 3), np.uint8)
        pictures = np.stack([framed(image, settings.size) for image in images])  # [B, size, size, 3]
        reference = self.model.vae.encode(torch.from_numpy(pictures).to(self.device))
        latents = self.sample(reference, list(seeds), steps, guidance, progress or (lambda count: None), reference_view)
        views = self.model.vae.decode(latents.flatten(0, 1)).unflatten(0, (-1, VIEWS))
        return views.cpu().numpy()

    def sample(
        self,
        reference: Tensor,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        progress: Callable[[int], None],
        reference_view: int,
    ) -> Tensor:
        """View latents float [B, 6, C, h, w] of reference latents float [B, C, h, w], by DDIM (Song et al. 2020)."""
        model, samples = self.model, len(reference)
        noise = self.noise(seeds)  # [B, R, C, h, w]
        azimuth, elevation = self.relative_cameras(reference_view, samples)
        branches = [torch.zeros(samples, dtype=torch.bool, device=self.device)]
        if guidance != 1:
            branches.append(~branches[0])
        scheduler = DDIMScheduler.from_config(model.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        latents = noise[:, :VIEWS] * scheduler.init_noise_sigma
        conditions: list[Condition] = []
        for step in scheduler.timesteps:
            timestep = step.expand(samples)
            if not conditions or model.settings.reference == "noised":
                conditions = [model.condition(reference, timestep, noise[:, VIEWS:], dropped) for dropped in branches]
            predicted = [model.predict_v(latents, timestep, azimuth, elevation, condition) for condition in conditions]
            v = predicted[0] if guidance == 1 else predicted[1] + guidance * (predicted[0] - predicted[1])
            latents = scheduler.step(v, step, latents, eta=0.0).prev_sample
            progress(1)
        return latents

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """float [B, R, C, h, w], each sample's drawn on the CPU from a generator of its own."""
        shape = (self.model.noise_rows, *self.model.latent_shape(self.model.settings.size))
        drawn = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(int(seed))) for seed in seeds]
        return torch.stack(drawn).to(self.device)

    def relative_cameras(self, reference_view: int, samples: int) -> tuple[Tensor, Tensor]:
        """Azimuth and elevation float [B, 6] in degrees of the rig's cameras relative to its ``reference_view``."""
        rig = self.model.settings.cameras
        relative = (
            torch.tensor([angle - angles[reference_view] for angle in angles], device=self.device)
            for angles in (rig.azimuth, rig.elevation)
        )
        azimuth, elevation = (angles.expand(samples, VIEWS) for angles in relative)
        return azimuth % 360, elevation


def framed(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [size, size, 3] on white of a square picture uint8 [H, H, 3], or 4 with straight alpha."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or image.shape[0] != image.shape[1]:
        raise InputError(
            f"a picture is {image.dtype} {list(image.shape)}", "give square pictures, uint8 [H, H, 3] or [H, H, 4]"
        )
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        image = np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if image.shape[0] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
