"""What a person sets for generation, and which of it decides what an output is."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import xxhash

from mvdiff.errors import InputError, counted, refuse
from mvdiff.model.settings import SAMPLERS
from mvdiff.rig import VIEWS

CHOICES = {
    "sampler": SAMPLERS,
    "mixed_precision": ("no", "bf16"),
}


@dataclass(frozen=True)
class GenerateSettings:
    """The values of ``configs/generate/``. ``InputError`` when one makes no sense."""

    sampler: str
    """``euler_ancestral``, ``ddim``, ``dpmsolver++`` or ``unipc``."""
    steps: int
    """Sampler steps."""
    guidance: float
    """Classifier-free guidance scale."""
    guidance_rescale: float
    """Share by which guided predictions are brought back to the deviation of unguided ones; 0: off."""
    guidance_interval: tuple[float, float]
    """Shares of the noise schedule between which guidance acts; [0, 1]: always."""
    mixed_precision: str
    """``no`` (float32) or ``bf16``, where the device has it."""
    seed: int
    """Seed of the whole set; a sample's noise comes from it and the sample's id."""
    reference_view: int
    """Which of a sample's six views is the input of a result set."""
    batch: int
    """Samples in one sampler call."""
    threads: int
    """Threads of the sampler's CPU work. Another number rounds differently."""
    compile: bool
    """Run the network compiled, which every node does once at first (``mvdiff/model/compilation.py``)."""
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
        refuse(list(self._wrong_alone()) or self._wrong_together())

    def _wrong_alone(self) -> Iterator[InputError]:
        for name in (
            "steps",
            "batch",
            "threads",
            "slice",
            "give_up_after",
            "lease_seconds",
            "heartbeat_seconds",
            "poll_seconds",
        ):
            if getattr(self, name) <= 0:
                yield InputError(f"generate.{name} is {getattr(self, name)}", "give a number above 0")
        if self.seed < 0 or (self.guidance is not None and not math.isfinite(self.guidance)):
            yield InputError(
                f"generate.seed is {self.seed} and generate.guidance {self.guidance}",
                "give a seed of 0 or more and a finite guidance",
            )
        if not 0 <= self.reference_view < VIEWS:
            yield InputError(f"generate.reference_view is {self.reference_view}", f"give 0 to {VIEWS - 1}")
        if not 0 <= self.guidance_rescale <= 1:
            yield InputError(f"generate.guidance_rescale is {self.guidance_rescale}", "give 0 (off) to 1")
        if len(self.guidance_interval) != 2 or not 0 <= self.guidance_interval[0] < self.guidance_interval[1] <= 1:
            yield InputError(
                f"generate.guidance_interval is {list(self.guidance_interval)}",
                "give two rising numbers from 0 to 1, as in [0.1, 0.8]",
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                yield InputError(f"generate.{name} is {getattr(self, name)}", f"choose {', '.join(choices)}")

    def _wrong_together(self) -> Iterator[InputError]:
        if self.slice % self.batch:
            yield InputError(
                f"generate.slice is {self.slice}, no multiple of generate.batch, {self.batch}",
                f"give slice={-(-self.slice // self.batch) * self.batch}",
            )
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            yield InputError(
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
    sampler: str
    steps: int
    guidance: float
    guidance_rescale: float
    guidance_interval: tuple[float, float]
    mixed_precision: str
    seed: int
    reference_view: int
    batch: int
    """Part of the recipe because arithmetic on a GPU depends on the batch in its last bits."""
    threads: int
    """Likewise, on a CPU: sums are cut up among them."""
    compile: bool
    """Likewise: compiled arithmetic has other last bits."""

    @classmethod
    def of(cls, settings: GenerateSettings, *, checkpoint: str, rig: str, size: int) -> Self:
        """The recipe of ``settings`` with the checkpoint whose hash is ``checkpoint``."""
        low, high = settings.guidance_interval
        return cls(
            checkpoint, rig, size, settings.sampler, settings.steps, float(settings.guidance),
            float(settings.guidance_rescale), (float(low), float(high)), settings.mixed_precision, settings.seed,
            settings.reference_view, settings.batch, settings.threads, settings.compile,
        )  # fmt: skip

    def __post_init__(self) -> None:
        # a list where it was read from JSON
        object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))

    @property
    def set_id(self) -> str:
        """Name of the result set: 16 hexadecimal digits of SHA-256 over every field.

        ``compile`` counts where it is set, so that sets from before there was such a field keep their names.
        """
        counted = {key: value for key, value in asdict(self).items() if key != "compile" or value}
        return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]

    def described(self) -> str:
        """What tells this set from others of the same run, for people: all that decides it but the rig."""
        low, high = self.guidance_interval
        guidance = f"guidance {self.guidance:g}"
        guidance += "" if (low, high) == (0, 1) else f" in [{low:g}, {high:g}]"
        guidance += f" rescaled by {self.guidance_rescale:g}" if self.guidance_rescale else ""
        precision = "" if self.mixed_precision == "no" else f", {self.mixed_precision}"
        return (
            f"input view {self.reference_view}, {self.sampler}, {counted(self.steps, 'step')}, {guidance}, "
            f"seed {self.seed}, {self.size} px{precision}, batch {self.batch}, {counted(self.threads, 'thread')}"
            f"{', compiled' if self.compile else ''}, checkpoint {self.checkpoint[:8]}"
        )

    def attributes(self) -> dict[str, str | int | float]:
        """What a result shard says about its making."""
        kept: dict[str, Any] = asdict(self)
        del kept["rig"], kept["size"]
        kept["guidance_interval"] = " ".join(f"{end:g}" for end in self.guidance_interval)
        kept["compile"] = int(self.compile)
        return {**kept, "result_set": self.set_id}


def reference_views(asked: Any) -> tuple[int, ...]:
    """The views that ``generate.reference_view`` asks for: one, several (``0,2`` or a list), or ``all``, rising.

    Raises ``InputError`` for anything else.
    """
    if asked == "all":
        return tuple(range(VIEWS))
    words = asked.strip("[]").split(",") if isinstance(asked, str) else asked
    if not isinstance(words, Sequence):
        words = [words]
    known = {str(view): view for view in range(VIEWS)}
    views = {known.get(str(word).strip()) for word in words}
    if not views or None in views:
        raise InputError(f"generate.reference_view is {asked}", f"give 0 to {VIEWS - 1}, some of them as 0,2, or all")
    return tuple(sorted(view for view in views if view is not None))


def sample_seed(seed: int, sample_id: str) -> int:
    """Seed of one sample's noise, in [0, 2^63): a pure function of the set's seed and the sample's id."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{sample_id}".encode()) >> 1
