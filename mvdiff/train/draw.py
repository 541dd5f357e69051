"""The draws of training: timestep, noise, dropped condition, reference view and variation of a sample at a place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from xxhash import xxh3_64_intdigest

from mvdiff.rig import VIEWS
from mvdiff.train.augment import Colour, Variation, Window
from mvdiff.train.order import Place, stream
from mvdiff.train.settings import AugmentSettings, TrainSettings


@dataclass(frozen=True)
class Draw:
    """What chance decides for one sample."""

    timestep: int
    dropped: bool
    """Whether the condition is withheld, so that guidance has an unconditional branch."""
    reference: int
    """Which of the rig's views is the reference, of the sample as varied; the targets follow from it around the rig."""
    variation: Variation
    noise: dict[str, Tensor]
    """float32, standard normal, on the CPU: one tensor for each of ``Chance.noise_shapes``."""


@dataclass(frozen=True)
class Chance:
    """Draws as pure functions of (seed, data set, epoch, position, sample id).

    Each quantity has a stream of its own, so that a new one never shifts the others. Rank, world size and restarts do
    not enter.
    """

    seed: int
    timesteps: int
    """Timesteps are drawn evenly from [0, timesteps)."""
    condition_drop: float
    """Probability that the condition is withheld."""
    random_reference: bool
    """Whether any view may be the reference; otherwise it is view 0."""
    augment: AugmentSettings
    noise_shapes: Mapping[str, tuple[int, ...]]
    """What a sample takes of noise, by name."""

    @classmethod
    def of(cls, settings: TrainSettings, timesteps: int, noise_shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """As ``settings`` have it, for a model of so many ``timesteps`` that takes such noise."""
        return cls(
            seed=settings.seed,
            timesteps=timesteps,
            condition_drop=settings.condition_drop,
            random_reference=settings.reference_view == "random",
            augment=settings.augment,
            noise_shapes=noise_shapes,
        )

    def draw(self, place: Place, sample_id: str) -> Draw:
        """The draw for ``sample_id`` at ``place``, where it may stand in for another one."""

        def key(what: str) -> int:
            name = stream(place.source, what)
            return xxh3_64_intdigest(f"{name}|{self.seed}|{place.epoch}|{place.position}|{sample_id}".encode())

        def below(what: str, count: int) -> int:
            return key(what) * count >> 64

        def between(what: str, low: float, high: float) -> float:
            return low + (high - low) * (key(what) / 2.0**64)

        def around(what: str, middle: float) -> float:
            return between(what, middle - self.augment.colour, middle + self.augment.colour)

        colour = window = None
        if self.augment.colour:
            colour = Colour(around("brightness", 1), around("contrast", 1), around("saturation", 1), around("hue", 0))
        if self.augment.crop < 1:
            side = between("crop side", self.augment.crop, 1)
            window = Window(between("crop left", 0, 1 - side), between("crop top", 0, 1 - side), side)
        return Draw(
            timestep=below("timestep", self.timesteps),
            dropped=key("dropped") < self.condition_drop * 2.0**64,
            reference=below("reference", VIEWS) if self.random_reference else 0,
            variation=Variation(key("flip") < self.augment.flip * 2.0**64, colour, window),
            noise={
                name: torch.randn(shape, generator=torch.Generator().manual_seed(key(f"noise {name}")))
                for name, shape in self.noise_shapes.items()
            },
        )
