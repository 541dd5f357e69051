"""Where a run's samples come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mvdiff.shard import ShardDataset


@dataclass(frozen=True)
class Sources:
    """The data sets of a run."""

    training: ShardDataset
    """What is learnt."""
    validation: ShardDataset | None
    """Held-out samples that the model is tried on; None: it is not tried."""
    prior: ShardDataset | None
    """What was known before and is not to be forgotten; None: the whole batch is of ``training``."""

    @classmethod
    def open(cls, training: Path, validation: Path | None, prior: Path | None) -> Self:
        """From the shards at these places."""
        validation, prior = (path and ShardDataset(path) for path in (validation, prior))
        return cls(ShardDataset(training), validation, prior)
