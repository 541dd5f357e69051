"""What a person sets for generation, and which of it decides what an output is."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import xxhash

from mvdiff.errors import InputError
from mvdiff.rig import VIEWS


@dataclass(frozen=True)
class GenerateSettings:
    """The values of ``configs/generate/``. ``InputError`` when one makes no sense."""

    steps: int
    """Sampler steps."""
    guidance: float
    """Classifier-free guidance scale."""
    seed: int
    """Seed of the whole set; a sample's noise comes from it and the sample's id."""
    reference_view: int
    """Which of a sample's six views is the input."""
    batch: int
    """Samples in one sampler call."""
    slice: int
    """Samples a worker claims at once, a multiple of ``batch``: a few minutes of work."""
    codec: str
    """Codec of the result shards."""
    lease_seconds: float
    """A worker whose heartbeat stood still this long has lost its slice; above two attribute cache times of NFS."""
    heartbeat_seconds: float
    """Time between two heartbeats."""
    poll_seconds: float
    """Longest wait between two looks at slices that others hold."""
    give_up_after: int
    """After so many failures of the sampler in a row the fault is the worker's, not the samples', and it stops."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "slice", "give_up_after", "lease_seconds", "heartbeat_seconds", "poll_seconds"):
            if getattr(self, name) <= 0:
                raise InputError(f"generate.{name} is {getattr(self, name)}", "give a number above 0")
        if self.seed < 0 or (self.guidance is not None and not math.isfinite(self.guidance)):
            raise InputError(
                f"generate.seed is {self.seed} and generate.guidance {self.guidance}",
                "give a seed of 0 or more and a finite guidance",
            )
        if not 0 <= self.reference_view < VIEWS:
            raise InputError(f"generate.reference_view is {self.reference_view}", f"give 0 to {VIEWS - 1}")
        if self.slice % self.batch:
            raise InputError(
                f"generate.slice is {self.slice}, no multiple of generate.batch, {self.batch}",
                f"give slice={-(-self.slice // self.batch) * self.batch}",
            )
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise InputError(
                f"generate.lease_seconds is {self.lease_seconds}, less than three heartbeats",
                f"give at least {3 * self.heartbeat_seconds}",
            )


@dataclass(frozen=True)
class Recipe:
    """What an output depends on besides its input. Outputs of different recipes never share a folder."""

    checkpoint: str
    """Hash of the checkpoint."""
    rig: str
    """Name of the rig of inputs and outputs."""
    size: int
    """Height and width of the generated views in pixels."""
    steps: int
    guidance: float
    seed: int
    reference_view: int
    batch: int
    """Part of the recipe because arithmetic on a GPU depends on the batch in its last bits."""

    @classmethod
    def of(cls, settings: GenerateSettings, *, checkpoint: str, rig: str, size: int) -> Self:
        """The recipe of ``settings`` with the checkpoint whose hash is ``checkpoint``."""
        return cls(
            checkpoint, rig, size, settings.steps, float(settings.guidance), settings.seed, settings.reference_view,
            settings.batch,
        )  # fmt: skip

    @property
    def set_id(self) -> str:
        """Name of the result set: 16 hexadecimal digits of SHA-256 over every field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def attributes(self) -> dict[str, str | int | float]:
        """What a result shard says about its making."""
        kept: dict[str, Any] = asdict(self)
        del kept["rig"], kept["size"]
        return {**kept, "result_set": self.set_id}


def sample_seed(seed: int, sample_id: str) -> int:
    """Seed of one sample's noise, in [0, 2^63): a pure function of the set's seed and the sample's id."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{sample_id}".encode()) >> 1
