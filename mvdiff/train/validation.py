"""Trying the model while it trains: held-out samples are really generated, and scored against the truth."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from xxhash import xxh3_64_intdigest

from mvdiff.durable import published
from mvdiff.errors import InputError
from mvdiff.evaluate.consistency import consistency
from mvdiff.evaluate.foreground import foreground, true_foreground
from mvdiff.evaluate.metrics import mean, scores
from mvdiff.evaluate.sheet import COLUMNS, LABELS, headed, labelled, stacked, strip
from mvdiff.lettering import LINE
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.pipeline import MultiViewPipeline
from mvdiff.rig import rig
from mvdiff.shard import CorruptRow, Sample, ShardDataset
from mvdiff.train.history import SCORES
from mvdiff.train.order import Order
from mvdiff.train.settings import TrainSettings
from mvdiff.train.world import Group

_REFERENCE = 0
"""The view that is the input."""
_CHOICE = 0
"""Seed by which samples are chosen: no setting, so that runs of other seeds are tried on the same samples."""
_TILE = 128
"""Pixels a side of a picture on the contact sheet."""


@dataclass(frozen=True)
class Trial:
    """What one validation found."""

    scores: dict[str, float]
    """Means over the samples by the names of ``SCORES``; a sample whose score is not a number is left out of them."""
    samples: int
    seconds: float
    sheet: NDArray[np.uint8] | None
    """uint8 [H, W, 3], two rows a sample: the input, true views above generated ones, with words that say so; on rank 0
    alone."""


class Validation:
    """The held-out samples on which ``model`` is tried, always the same ones from the same seeds.

    They are cut into slices of ``validation.batch`` samples, and slice j is made by rank j mod world size: what a slice
    computes, and so every score, does not depend on how many ranks there are. A rank keeps its own samples in memory.

    ``model``, of the data's rig and size, lies on the group's device in evaluation mode; neither it nor any random
    state is changed. ``quarantine(sample_id, why)`` is told on rank 0 of each sample that fails its checksum; the next
    one takes its place. Raises ``InputError`` where none can be read.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        settings: TrainSettings,
        model: MultiViewModel,
        group: Group,
        quarantine: Callable[[str, str], None],
    ) -> None:
        self._settings, self._group = settings.validation, group
        self._pipeline = MultiViewPipeline(model, group.device, settings.mixed_precision)
        rows = group.decide(lambda: _held_out(dataset, settings.validation.samples, quarantine))
        size = self._batch = min(settings.validation.batch, len(rows))
        slices = [rows[at : at + size] for at in range(0, len(rows), size)]
        self._samples = len(rows)
        self._azimuth = rig(dataset.rig).azimuth
        self._rounds = -(-len(slices) // group.world_size)
        self._own = [[dataset[row] for row in one] for one in slices[group.rank :: group.world_size]]

    def run(
        self, should_stop: Callable[[], bool], progress: Callable[[int], None] = lambda samples: None
    ) -> Trial | None:
        """Generate and score every sample; None, on all ranks alike, where any of them ``should_stop`` before the end.

        All ranks get the same scores, bit for bit. ``progress`` is called with the number of samples made in each
        round, by all ranks together. Raises on all ranks alike, whichever of them it befalls, ``FloatingPointError``
        where sampling ends in what is no number and ``InputError`` where a GPU has too little memory for a slice.
        """
        start = time.monotonic()
        table: list[Tensor] = []
        strips: list[Tensor] = []
        on_sheet = min(self._settings.sheet, self._samples)
        for number in range(self._rounds):
            if self._group.any(should_stop()):
                return None
            first = number * self._group.world_size * self._batch
            drawn = min(on_sheet - first, self._group.world_size * self._batch)
            rows, pictures = self._round(number, max(drawn, 0))
            table.append(self._group.gather(rows).flatten(0, 1))
            if drawn > 0:
                strips.append(self._group.gather(pictures).flatten(0, 1)[:drawn])
            progress(min(len(table[-1]), self._samples - first))
        found = torch.cat(table)[: self._samples]  # [samples, scores]
        return Trial(
            {name: mean(column.tolist()) for name, column in zip(SCORES, found.T, strict=True)},
            self._samples,
            time.monotonic() - start,
            headed(stacked(torch.cat(strips).numpy()), self._azimuth, _REFERENCE) if self._group.rank == 0 else None,
        )

    def _round(self, number: int, drawn: int) -> tuple[Tensor, Tensor]:
        """This rank's slice of round ``number``, filled up to ``validation.batch`` samples with what is cut off again.

        Scores float64 [batch, scores], and the strips uint8 [batch, h, w, 3] of those that are among the first
        ``drawn`` samples of the round.
        """
        batch = self._batch
        table = np.full((batch, len(SCORES)), np.nan)
        pictures = np.full((batch if drawn else 0, LINE + 2 * _TILE, COLUMNS * _TILE + LABELS, 3), 255, np.uint8)
        samples = self._own[number] if number < len(self._own) else []
        views, failure = self._generated(samples)
        if self._group.any(isinstance(failure, torch.OutOfMemoryError)):
            raise InputError(
                f"beside training the GPU has no room to generate train.validation.batch={batch} samples at once",
                "set it lower, and start the run again",
            ) from failure
        if self._group.any(isinstance(failure, FloatingPointError)):
            raise FloatingPointError("validation: the averaged model generates what is no number") from failure
        for k, (sample, made) in enumerate(zip(samples, views, strict=True)):
            table[k] = _scored(sample, made)
            if self._group.rank * batch + k < drawn:
                drawing = strip(sample.views[_REFERENCE], sample.views, made, _TILE)
                pictures[k] = labelled(drawing, sample.sample_id, _TILE)
        return torch.from_numpy(table), torch.from_numpy(pictures)

    def _generated(self, samples: list[Sample]) -> tuple[NDArray[np.uint8], Exception | None]:
        """Views uint8 [B, 6, H, W, 3] of ``samples``, or none of them and the failure."""
        try:
            views = self._pipeline(
                [sample.views[_REFERENCE] for sample in samples],
                [_seed(sample.sample_id) for sample in samples],
                self._settings.steps,
                self._settings.guidance,
                reference_view=_REFERENCE,
            )
        except (FloatingPointError, torch.OutOfMemoryError) as failure:
            return np.empty(0, np.uint8), failure
        return views, None


def publish_sheet(sheet: NDArray[np.uint8], folder: Path, step: int) -> Path:
    """Write the ``sheet`` of a trial after ``step`` steps to ``folder/step-00000300.png``, which appears whole.

    Makes ``folder`` where it is missing; ``OSError`` where the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.png"
    with published(path) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG")
    return path


def _held_out(dataset: ShardDataset, samples: int, quarantine: Callable[[str, str], None]) -> list[int]:
    """Rows of the first ``samples`` good ones in an order that is the same however they are spread over shards."""
    order = Order(dataset.ids, _CHOICE)

    def good(row: int) -> bool:
        try:
            dataset[row]
        except CorruptRow as error:
            quarantine(error.sample_id, error.why)
            return False
        return True

    places = (order.place(position).row for position in range(len(dataset)))
    rows = list(islice(filter(good, places), samples))
    if not rows:
        raise InputError(
            f"not one of the {len(dataset)} held-out samples can be read", "run mvdiff verify on their shards"
        )
    return rows


def _scored(sample: Sample, views: NDArray[np.uint8]) -> list[float]:
    """``SCORES`` of ``views`` uint8 [6, H, W, 3]."""
    masks = foreground(views)
    truth = true_foreground(sample.views, sample.alpha)
    found = {name: one.all_views for name, one in scores(views, masks, sample.views, truth, _REFERENCE).items()}
    found["silhouette"] = consistency(views, masks, sample.w2c, sample.intrinsics)["silhouette"]
    return [found[name] for name in SCORES]


def _seed(sample_id: str) -> int:
    return xxh3_64_intdigest(f"validation|{sample_id}".encode()) >> 1
