"""What a person sets for a measurement."""

from dataclasses import dataclass

from mvdiff.errors import InputError

QUESTIONS = ("train", "generate", "data", "checkpoint", "scaling")
TRAINING, GENERATION = PARTS = ("training", "generation")
"""What scaling is measured of."""


@dataclass(frozen=True)
class BenchSettings:
    """The values of ``configs/bench/``."""

    warmup: int
    """Steps, or calls, that are not timed: kernels are chosen and compiled in them."""
    repeats: int
    """Steps, or calls, that are timed."""
    rows: int
    """Samples of noise in the shard that is read, and that generation makes views of."""
    peer: bool
    """Also measure what users would otherwise run, in the same process."""
    ranks: int
    """Processes, each with a GPU of its own, that scaling is measured with beside one: ranks, and workers."""
    parts: list[str]
    """What scaling is measured of: ``training``, ``generation`` or both."""
    profile: bool
    """Also show the kernels that take most of the time."""

    def __post_init__(self) -> None:
        for name, least in (("warmup", 0), ("repeats", 1), ("rows", 1), ("ranks", 2)):
            if getattr(self, name) < least:
                raise InputError(f"bench.{name}={getattr(self, name)}", f"give a whole number of at least {least}")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise InputError(f"bench.parts={self.parts}", f"give some of [{','.join(PARTS)}]")
