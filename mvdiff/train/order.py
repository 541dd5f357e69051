"""The order of training: which sample stands at which place of the endless stream that the steps are cut from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from xxhash import xxh3_64_intdigest

from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources

Source = Literal["training", "prior"]
"""Which of ``Sources`` a sample is of."""


def stream(source: Source, what: str) -> str:
    """Name of the random stream of ``what`` for ``source``: two sources share none, whatever their samples' ids."""
    return what if source == "training" else f"{source} {what}"


@dataclass(frozen=True)
class Place:
    """One place in the stream of samples."""

    source: Source
    epoch: int
    position: int
    """Place within the epoch, in [0, number of samples)."""
    row: int
    """Index into ``Order.ids`` of the sample that stands here."""


@dataclass(frozen=True)
class Order:
    """The order of samples as a pure function of the seed: no state, nothing to save, nothing to restore.

    Epochs follow one another without a gap, so a batch may straddle two of them and no sample is ever left out. Within
    an epoch the samples are sorted by a hash of (seed, epoch, id): any library version, world size or number of
    restarts gives the same order, and so does the same set of samples spread over other shards.
    """

    ids: Sequence[str]
    seed: int
    source: Source = "training"
    _shuffled: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def place(self, index: int) -> Place:
        """The ``index``-th place of the stream, counted from 0 over all epochs."""
        epoch, position = divmod(index, len(self.ids))
        return Place(self.source, epoch, position, self._rows(epoch)[position])

    def following(self, place: Place, count: int) -> Place:
        """``place`` with the sample that stands ``count`` places later in its epoch (wrapping round).

        What takes the place of a sample that cannot be read: the same for every rank and at every restart.
        """
        rows = self._rows(place.epoch)
        return replace(place, row=rows[(place.position + count) % len(rows)])

    def batch(self, step: int, size: int) -> list[Place]:
        """The ``size`` places that fall to optimizer step ``step`` (from 0)."""
        return [self.place(step * size + i) for i in range(size)]

    def _rows(self, epoch: int) -> list[int]:
        rows = self._shuffled.get(epoch)
        if rows is None:
            name = stream(self.source, "order")
            keys = [xxh3_64_intdigest(f"{name}|{self.seed}|{epoch}|{sample_id}".encode()) for sample_id in self.ids]
            rows = sorted(range(len(self.ids)), key=lambda row: (keys[row], self.ids[row]))
            for old in [known for known in list(self._shuffled) if known < epoch - 1]:
                self._shuffled.pop(old, None)
            self._shuffled[epoch] = rows
        return rows


class Batches:
    """The global batches: ``own_batch`` places of the training set's order, then ``prior_batch`` of the prior's.

    Each data set has epochs of its own, which follow from its own size. Ranks do not enter.
    """

    def __init__(self, sources: Sources, settings: TrainSettings) -> None:
        assert (sources.prior is None) == (settings.prior_batch == 0)
        self.training = Order(sources.training.ids, settings.seed)
        self._orders: dict[Source, Order] = {"training": self.training}
        self._sizes: dict[Source, int] = {"training": settings.own_batch}
        if sources.prior is not None:
            self._orders["prior"] = Order(sources.prior.ids, settings.seed, "prior")
            self._sizes["prior"] = settings.prior_batch

    def order(self, source: Source) -> Order:
        """The order of one data set."""
        return self._orders[source]

    def places(self, step: int) -> list[Place]:
        """The places of the global batch of optimizer step ``step`` (from 0)."""
        return [place for source, order in self._orders.items() for place in order.batch(step, self._sizes[source])]

    def ids(self, step: int) -> list[str]:
        """Sample ids of that batch, in its order, as they are if every one of them can be read."""
        return [self._orders[place.source].ids[place.row] for place in self.places(step)]
