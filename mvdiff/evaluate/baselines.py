"""What a model has to beat: views made without any model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.progress import tracked
from mvdiff.rig import VIEWS
from mvdiff.shard import CorruptRow, ShardDataset

_SEARCH_SIZE = 64


class TrainingSplit:
    """What the training samples alone say about a picture: their mean, and the one that looks most like it.

    Reads every sample once, at most ``limit`` of them, evenly spaced. Samples that fail their checksum are passed over
    and named in ``unreadable``; ``InputError`` when none is left.
    """

    def __init__(self, data: ShardDataset, reference_view: int, limit: int) -> None:
        self._data = data
        numbers = np.unique(np.linspace(0, len(data) - 1, min(limit, len(data))).round().astype(int))
        total = np.zeros((VIEWS, data.size, data.size, 3))
        self.unreadable: dict[str, str] = {}
        self._numbers: list[int] = []
        thumbnails = []
        for number in tracked(numbers.tolist(), "training split", len(numbers)):
            try:
                views = data[number].views
            except CorruptRow as error:
                self.unreadable[data.ids[number]] = str(error)
                continue
            total += views
            thumbnails.append(_thumbnail(views[reference_view]))
            self._numbers.append(number)
        if not self._numbers:
            first = next(iter(self.unreadable.values()))
            raise InputError("no training sample could be read", f"pack the training shards again ({first})")
        self.mean: NDArray[np.uint8] = (total / len(self._numbers)).round().astype(np.uint8)
        """Mean of every view, uint8 [6, H, W, 3]."""
        self._thumbnails = np.stack(thumbnails)  # float32 [N, D]
        self._squares = np.einsum("nd,nd->n", self._thumbnails, self._thumbnails)

    def __len__(self) -> int:
        """How many samples were read."""
        return len(self._numbers)

    def nearest(self, picture: NDArray[np.uint8]) -> tuple[str, NDArray[np.uint8]]:
        """Id and true views uint8 [6, H, W, 3] of the sample whose input view has the smallest RMSE to ``picture``.

        Compared at about 64 pixels a side. ``CorruptRow`` when that sample has been damaged since.
        """
        thumbnail = _thumbnail(picture)
        distance = self._squares - 2 * (self._thumbnails @ thumbnail)
        number = self._numbers[int(distance.argmin())]
        return self._data.ids[number], self._data[number].views


def blank(size: int) -> NDArray[np.uint8]:
    """Six white views uint8 [6, size, size, 3]."""
    return np.full((VIEWS, size, size, 3), 255, np.uint8)


def copied(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The input picture [H, W, 3] as every view, uint8 [6, H, W, 3]."""
    return np.repeat(picture[None], VIEWS, 0)


def shared(recordings: Sequence[str], others: Sequence[str]) -> list[str]:
    """Recordings that are in both splits: scores on them say nothing about new animals."""
    return sorted(set(recordings) & set(others))


def _thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Block means of ``picture`` as one vector [D], with white as 0."""
    step = max(1, picture.shape[0] // _SEARCH_SIZE)
    height, width = (n // step * step for n in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step, 3)
    return (255 - blocks.mean((1, 3), dtype=np.float32)).reshape(-1) / 255
