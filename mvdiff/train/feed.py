"""The feed of training: reads, decodes, varies and draws ahead of the step, and lays out its batches."""

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
from torch import Tensor

from mvdiff.errors import InputError
from mvdiff.model.batch import TrainingBatch
from mvdiff.model.vision import Sight
from mvdiff.rig import VIEWS, Rig, angles, field_of_view, relative
from mvdiff.shard import CorruptRow, Sample, ShardDataset
from mvdiff.train.draw import Chance, Draw
from mvdiff.train.order import Batches, Place, Source
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources


@dataclass(frozen=True)
class Fed:
    """One sample as it stands in a batch: read, checked, varied, its condition resized, everything random drawn."""

    sample: Sample
    draw: Draw
    reference: NDArray[np.uint8]
    glance: NDArray[np.uint8]


class Feed:
    """The share of every global batch that falls to one rank, as batches for the model.

    A sample that fails its checksum is reported once to ``quarantine(sample_id, why)`` and its place is taken by the
    next good one of its data set's epoch, on whatever rank and at whatever restart it is met.

    ``rig`` is the one that the samples were taken with. ``pin``: batches lie in page-locked memory, from which copies
    to a GPU overlap with what it does.
    """

    def __init__(
        self,
        sources: Sources,
        batches: Batches,
        chance: Chance,
        settings: TrainSettings,
        sight: Sight,
        rig: Rig,
        rank: int,
        world_size: int,
        quarantine: Callable[[str, str], None],
        pin: bool = False,
    ) -> None:
        self.waited = 0.0
        """Seconds that ``take`` has spent waiting for batches."""
        self._batches, self._chance, self._settings, self._sight, self._rig = batches, chance, settings, sight, rig
        self._opened: dict[Source, ShardDataset] = {"training": sources.training}
        if sources.prior is not None:
            self._opened["prior"] = sources.prior
        self._own = threading.local()
        self._share = settings.share(world_size)
        self._first = rank * self._share
        self._quarantine = quarantine
        self._pin = pin
        self._quarantined: set[tuple[Source, int]] = set()
        self._cache: dict[tuple[Source, int], Sample] = {}
        self._room = settings.cache << 20
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="read")
        self._pending: deque[tuple[int, list[_Piece]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> list[TrainingBatch]:
        """This rank's share of the global batch of ``step``, in pieces of at most ``micro_batch`` samples.

        Steps are meant to be taken one after the other: those that follow are read meanwhile. Raises what a reader
        has raised for this step: ``InputError`` when no sample of a data set can be read.
        """
        if self._pending and self._pending[0][0] != step:
            for _, pieces in self._pending:
                for piece in pieces:
                    piece.cancel()
            self._pending.clear()
        following = self._pending[-1][0] + 1 if self._pending else step
        for ahead in range(following, min(step + self._settings.ahead + 1, self._settings.last_step)):
            self._pending.append((ahead, self._begin(ahead)))
        start = time.perf_counter()
        batches = [piece.batch.result() for piece in self._pending.popleft()[1]]
        self.waited += time.perf_counter() - start
        return batches

    def _begin(self, step: int) -> "list[_Piece]":
        places = self._batches.places(step)[self._first : self._first + self._share]
        size = self._settings.micro_batch
        return [
            _Piece(self._readers, self._feed, places[at : at + size], self._pin) for at in range(0, self._share, size)
        ]

    def _feed(self, place: Place) -> Fed:
        order = self._batches.order(place.source)
        for count in range(len(order.ids)):
            sample = self._read(place.source, order.following(place, count).row)
            if sample is not None:
                draw = self._chance.draw(place, sample.sample_id)
                varied = draw.variation.applied(sample, self._rig)
                return Fed(varied, draw, *self._sight(varied.views[draw.reference]))
        raise InputError(
            f"not one of the {len(order.ids)} {place.source} samples can be read", "run mvdiff verify on the shards"
        )

    def _dataset(self, source: Source) -> ShardDataset:
        """This thread's own: open files are not shared between threads, so that they decode side by side."""
        if not hasattr(self._own, "datasets"):
            self._own.datasets = {known: copy.copy(opened) for known, opened in self._opened.items()}
        return self._own.datasets[source]

    def _read(self, source: Source, row: int) -> Sample | None:
        sample = self._cache.get((source, row))
        if sample is not None or (source, row) in self._quarantined:
            return sample
        try:
            sample = self._dataset(source)[row]
        except CorruptRow as error:
            with self._lock:
                known = (source, row) in self._quarantined
                self._quarantined.add((source, row))
            if not known:
                self._quarantine(error.sample_id, error.why)
            return None
        size = sample.views.nbytes + (0 if sample.alpha is None else sample.alpha.nbytes)
        with self._lock:
            if size <= self._room and (source, row) not in self._cache:
                self._room -= size
                self._cache[source, row] = sample
        return sample


class _Piece:
    """A batch in the making. Whichever reader brings its last sample lays it out, so that none waits for another."""

    def __init__(
        self, readers: ThreadPoolExecutor, feed: Callable[[Place], Fed], places: list[Place], pin: bool
    ) -> None:
        self.batch: Future[TrainingBatch] = Future()
        self._feed, self._pin = feed, pin
        self._fed: list[Fed | None] = [None] * len(places)
        self._missing = len(places)
        self._lock = threading.Lock()
        self._reading = [readers.submit(self._bring, at, place) for at, place in enumerate(places)]

    def cancel(self) -> None:
        """Read no more of it than what is being read already."""
        for reading in self._reading:
            reading.cancel()

    def _bring(self, at: int, place: Place) -> None:
        try:
            self._fed[at] = self._feed(place)
            with self._lock:
                self._missing -= 1
                last = not self._missing
            if last:
                self.batch.set_result(assemble([fed for fed in self._fed if fed is not None], self._pin))
                self._fed.clear()
        except BaseException as error:
            with self._lock:
                if not self.batch.done():
                    self.batch.set_exception(error)


def assemble(fed: list[Fed], pin: bool = False) -> TrainingBatch:
    """A batch of ``fed``, page-locked where ``pin``. Where the reference is view r, target k is view r + k (around
    the rig).

    On an even rig target k lies at 60 k degrees whatever the reference.
    """

    def laid(tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if pin else tensor

    around = [(np.arange(VIEWS) + one.draw.reference) % VIEWS for one in fed]
    cameras = np.stack([_cameras(one)[views] for one, views in zip(fed, around, strict=True)])  # [B, 6, 4]
    views = np.empty((len(fed), *fed[0].sample.views.shape), np.uint8)  # [B, 6, H, W, 3]
    for row, one, order in zip(views, fed, around, strict=True):
        np.take(one.sample.views, order, axis=0, out=row)
    return TrainingBatch(
        sample_ids=[one.sample.sample_id for one in fed],
        views=laid(torch.from_numpy(views)),
        reference=laid(torch.from_numpy(np.stack([one.reference for one in fed]))),
        glance=laid(torch.from_numpy(np.stack([one.glance for one in fed]))),
        cameras=laid(torch.from_numpy(cameras)),
        timestep=laid(torch.tensor([one.draw.timestep for one in fed])),
        noise={name: laid(torch.stack([one.draw.noise[name] for one in fed])) for name in fed[0].draw.noise},
        dropped=laid(torch.tensor([one.draw.dropped for one in fed])),
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
