"""The feed of training: reads, decodes and draws ahead of the step."""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.model.batch import TrainingBatch
from mvdiff.model.vision import Sight
from mvdiff.rig import VIEWS, angles, field_of_view, relative
from mvdiff.shard import CorruptRow, Sample, ShardDataset
from mvdiff.train.draw import Chance, Draw
from mvdiff.train.order import Order, Place
from mvdiff.train.settings import TrainSettings


@dataclass(frozen=True)
class Fed:
    """One sample as it stands in a batch: read, checked, its condition resized, and with everything random drawn."""

    sample: Sample
    draw: Draw
    reference: NDArray[np.uint8]
    glance: NDArray[np.uint8]


class Feed:
    """The share of every global batch that falls to one rank, as batches for the model.

    A sample that fails its checksum is reported once to ``quarantine(sample_id, why)`` and its place is taken by the
    next good one of the epoch, on whatever rank and at whatever restart it is met.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        order: Order,
        chance: Chance,
        settings: TrainSettings,
        sight: Sight,
        rank: int,
        world_size: int,
        quarantine: Callable[[str, str], None],
    ) -> None:
        self.waited = 0.0
        """Seconds that ``take`` has spent waiting for samples."""
        self._order, self._chance, self._settings, self._sight = order, chance, settings, sight
        self._opened = dataset
        self._own = threading.local()
        self._share = settings.share(world_size)
        self._first = rank * self._share
        self._quarantine = quarantine
        self._quarantined: set[int] = set()
        self._cache: dict[int, Sample] = {}
        self._room = settings.cache << 20
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="read")
        self._pending: deque[tuple[int, list[Future[Fed]]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> list[TrainingBatch]:
        """This rank's share of the global batch of ``step``, in pieces of at most ``micro_batch`` samples.

        Steps are meant to be taken one after the other: those that follow are read meanwhile. Raises ``InputError``
        when no sample of the data set can be read.
        """
        if self._pending and self._pending[0][0] != step:
            self._pending.clear()
        following = self._pending[-1][0] + 1 if self._pending else step
        for ahead in range(following, min(step + self._settings.ahead + 1, self._settings.steps)):
            self._pending.append((ahead, [self._readers.submit(self._feed, place) for place in self._places(ahead)]))
        start = time.perf_counter()
        fed = [future.result() for future in self._pending.popleft()[1]]
        self.waited += time.perf_counter() - start
        size = self._settings.micro_batch
        return [assemble(fed[at : at + size]) for at in range(0, len(fed), size)]

    def _places(self, step: int) -> list[Place]:
        return self._order.batch(step, self._settings.batch)[self._first : self._first + self._share]

    def _feed(self, place: Place) -> Fed:
        for count in range(len(self._order.ids)):
            found = self._order.following(place, count)
            sample = self._read(found.row)
            if sample is not None:
                draw = self._chance.draw(place.epoch, place.position, sample.sample_id)
                return Fed(sample, draw, *self._sight(sample.views[draw.reference]))
        raise InputError(
            f"not one of the {len(self._order.ids)} training samples can be read", "run mvdiff verify on the shards"
        )

    def _dataset(self) -> ShardDataset:
        """This thread's own: open files are not shared between threads, so that they decode side by side."""
        if not hasattr(self._own, "dataset"):
            self._own.dataset = copy.copy(self._opened)
        return self._own.dataset

    def _read(self, row: int) -> Sample | None:
        sample = self._cache.get(row)
        if sample is not None or row in self._quarantined:
            return sample
        try:
            sample = self._dataset()[row]
        except CorruptRow as error:
            with self._lock:
                known = row in self._quarantined
                self._quarantined.add(row)
            if not known:
                self._quarantine(error.sample_id, error.why)
            return None
        with self._lock:
            if sample.views.nbytes <= self._room and row not in self._cache:
                self._room -= sample.views.nbytes
                self._cache[row] = sample
        return sample


def assemble(fed: list[Fed]) -> TrainingBatch:
    """A batch of ``fed``. Where the reference is view r, target k is view r + k (around the rig).

    On an even rig target k lies at 60 k degrees whatever the reference.
    """
    around = [(np.arange(VIEWS) + one.draw.reference) % VIEWS for one in fed]
    cameras = np.stack([_cameras(one)[views] for one, views in zip(fed, around, strict=True)])  # [B, 6, 4]
    views = np.empty((len(fed), *fed[0].sample.views.shape), np.uint8)  # [B, 6, H, W, 3]
    for row, one, order in zip(views, fed, around, strict=True):
        np.take(one.sample.views, order, axis=0, out=row)
    return TrainingBatch(
        sample_ids=[one.sample.sample_id for one in fed],
        views=torch.from_numpy(views),
        reference=torch.from_numpy(np.stack([one.reference for one in fed])),
        glance=torch.from_numpy(np.stack([one.glance for one in fed])),
        cameras=torch.from_numpy(cameras),
        timestep=torch.tensor([one.draw.timestep for one in fed]),
        noise={name: torch.stack([one.draw.noise[name] for one in fed]) for name in fed[0].draw.noise},
        dropped=torch.tensor([one.draw.dropped for one in fed]),
    )


def _cameras(fed: Fed) -> NDArray[np.float32]:
    """float32 [6, 4] of a sample's own cameras relative to its reference, as the model is told them."""
    sample = fed.sample
    return relative(
        sample.azimuth,
        sample.elevation,
        angles(sample.w2c)[2],
        field_of_view(sample.intrinsics, sample.size),
        fed.draw.reference,
    )
