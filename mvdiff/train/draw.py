"""The draws of training: timestep, noise, dropped condition and reference view of one sample at one place."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from xxhash import xxh3_64_intdigest

from mvdiff.rig import VIEWS


@dataclass(frozen=True)
class Draw:
    """What chance decides for one sample."""

    timestep: int
    dropped: bool
    """Whether the condition is withheld, so that guidance has an unconditional branch."""
    reference: int
    """Which of the rig's views is the reference; the targets follow from it around the rig."""
    noise: dict[str, Tensor]
    """float32, standard normal, on the CPU: one tensor for each of ``Chance.noise_shapes``."""


@dataclass(frozen=True)
class Chance:
    """Draws as pure functions of (seed, epoch, position, sample id).

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
    noise_shapes: Mapping[str, tuple[int, ...]]
    """What a sample takes of noise, by name."""

    def draw(self, epoch: int, position: int, sample_id: str) -> Draw:
        """The draw for ``sample_id`` at ``position`` of ``epoch``."""

        def key(what: str) -> int:
            return xxh3_64_intdigest(f"{what}|{self.seed}|{epoch}|{position}|{sample_id}".encode())

        def below(what: str, count: int) -> int:
            return key(what) * count >> 64

        return Draw(
            timestep=below("timestep", self.timesteps),
            dropped=key("dropped") < self.condition_drop * 2.0**64,
            reference=below("reference", VIEWS) if self.random_reference else 0,
            noise={
                name: torch.randn(shape, generator=torch.Generator().manual_seed(key(f"noise {name}")))
                for name, shape in self.noise_shapes.items()
            },
        )
