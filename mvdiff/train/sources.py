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
        held_out = None if validation is None else ShardDataset(validation)
        return cls(ShardDataset(training), held_out, None if prior is None else ShardDataset(prior))
