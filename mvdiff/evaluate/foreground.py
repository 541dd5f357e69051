"""Which pixels show the subject, in pictures on a white background.

One rule for every picture that is scored, a model's or a baseline's, and no setting: scores computed with different
rules cannot be compared.
"""

import numpy as np
from numpy.typing import NDArray

WHITE_DISTANCE = 24
"""A pixel whose darkest channel lies more than this below 255 counts as foreground (a model's white is noisy)."""
SMALLEST_PART = 0.05
"""Parts smaller than this share of the largest part are specks of noise."""


def foreground(views: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Foreground masks bool [V, H, W] of ``views`` uint8 [V, H, W, 3] on white.

    A pixel is foreground when most of its 3x3 neighbourhood is more than ``WHITE_DISTANCE`` away from white in some
    channel: a binary median, which removes specks and leaves straight edges where they are. Of the 4-connected parts,
    those with at least ``SMALLEST_PART`` of the largest one's area stay.
    """
    red, green, blue = np.moveaxis(views < 255 - WHITE_DISTANCE, -1, 0)
    dark = red | green | blue
    padded = np.pad(dark, ((0, 0), (1, 1), (1, 1)), mode="edge").astype(np.uint8)
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    votes = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.stack([large_parts(mask, SMALLEST_PART) for mask in votes >= 5])


def true_foreground(views: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> NDArray[np.bool_]:
    """Masks bool [V, H, W] of the truth: coverage above one half where ``alpha`` [V, H, W] is known, else the rule."""
    return foreground(views) if alpha is None else alpha > 127


def large_parts(mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """``mask`` [H, W] without its 4-connected parts of less than ``share`` times the largest one's area."""
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    if len(row) == 0:
        return mask
    # Runs as intervals on one line; a run touches those of the next row that overlap its interval moved down by a row.
    pitch = width + 1
    begin, end = row * pitch + start, row * pitch + stop
    first = np.searchsorted(end, begin + pitch, side="right")
    last = np.searchsorted(begin, end + pitch, side="left")
    touching = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(row)), touching)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(first, touching)
    part = _joined(len(row), upper, lower)
    area = np.bincount(part, weights=stop - start)
    kept = area[part] >= share * area.max()
    change = np.zeros(height * pitch + 1, np.int8)
    change[begin[kept]] = 1
    change[end[kept]] -= 1
    return np.cumsum(change, dtype=np.int8)[:-1].reshape(height, pitch)[:, :width].astype(bool)


def _joined(count: int, a: NDArray[np.intp], b: NDArray[np.intp]) -> NDArray[np.intp]:
    """Connected components of ``count`` nodes under the edges ``a``-``b``: the smallest node of each node's part."""
    label = np.arange(count)
    while True:
        low = np.minimum(label[a], label[b])
        before = label.copy()
        np.minimum.at(label, label[a], low)
        np.minimum.at(label, label[b], low)
        label = label[label]
        if np.array_equal(label, before):
            return label
