"""The order of training: which sample stands at which place of the endless stream that the steps are cut from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from xxhash import xxh3_64_intdigest


@dataclass(frozen=True)
class Place:
    """One place in the stream of samples."""

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
    _shuffled: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def place(self, index: int) -> Place:
        """The ``index``-th place of the stream, counted from 0 over all epochs."""
        epoch, position = divmod(index, len(self.ids))
        return Place(epoch, position, self._rows(epoch)[position])

    def following(self, place: Place, count: int) -> Place:
        """``place`` with the sample that stands ``count`` places later in its epoch (wrapping round).

        What takes the place of a sample that cannot be read: the same for every rank and at every restart.
        """
        rows = self._rows(place.epoch)
        return Place(place.epoch, place.position, rows[(place.position + count) % len(rows)])

    def batch(self, step: int, size: int) -> list[Place]:
        """The ``size`` places of the global batch of optimizer step ``step`` (from 0)."""
        return [self.place(step * size + i) for i in range(size)]

    def _rows(self, epoch: int) -> list[int]:
        rows = self._shuffled.get(epoch)
        if rows is None:
            keys = [xxh3_64_intdigest(f"order|{self.seed}|{epoch}|{sample_id}".encode()) for sample_id in self.ids]
            rows = sorted(range(len(self.ids)), key=lambda row: (keys[row], self.ids[row]))
            for old in [known for known in list(self._shuffled) if known < epoch - 1]:
                self._shuffled.pop(old, None)
            self._shuffled[epoch] = rows
        return rows
