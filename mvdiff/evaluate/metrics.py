"""Scores of one set of six views against the truth, a number a view."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mvdiff.evaluate.colour import lab

Views = NDArray[np.uint8]
Masks = NDArray[np.bool_]
PerView = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """How a score is called, read and ranked."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    digits: int


METRICS = (
    Metric("foreground_iou", "Foreground IoU", "", True, 3),
    Metric("foreground_psnr", "Foreground PSNR", "dB", True, 2),
    Metric("psnr", "PSNR", "dB", True, 2),
    Metric("ssim", "SSIM", "", True, 3),
    Metric("colour_shift", "Colour shift", "ΔE", False, 1),
)

ROUNDING_ERROR = 1.0 / 12.0
"""Mean squared error of rounding to 8 bits: pictures cannot be told apart below it."""
BEST_PSNR = float(10 * np.log10(255.0**2 / ROUNDING_ERROR))
"""What equal pictures score (58.9 dB), so that means stay finite."""


@dataclass(frozen=True)
class Figure:
    """One metric of one sample, or its mean over samples."""

    all_views: float
    novel_views: float
    """Without the view that was the model's input."""
    per_view: tuple[float, ...]


def scores(views: Views, masks: Masks, truth: Views, true_masks: Masks, reference_view: int) -> dict[str, Figure]:
    """Every metric of ``METRICS``: ``views`` against ``truth``, both uint8 [6, H, W, 3] with masks bool [6, H, W].

    A sample's PSNR is that of its views taken together as one picture. A mean of the views' decibels would let a single
    perfect view, such as the input copied to its own place, outweigh five wrong ones.
    """
    union = masks | true_masks
    return {
        "foreground_iou": _mean(iou(masks, true_masks), reference_view),
        "foreground_psnr": _pooled(*squared_errors(views, truth, union), reference_view),
        "psnr": _pooled(*squared_errors(views, truth), reference_view),
        "ssim": _mean(ssim(views, truth), reference_view),
        "colour_shift": _mean(colour_shift(views, masks, truth, true_masks), reference_view),
    }


def squared_errors(a: Views, b: Views, where: Masks | None = None) -> tuple[PerView, PerView]:
    """Sum of squared differences [V] of uint8 [V, H, W, 3], and how many values it is over [V].

    ``where`` [V, H, W] chooses pixels. With the union of both masks a subject that is missing counts as much as one
    that is there too much, and white background does not count.
    """
    total, count = np.zeros(len(a)), np.zeros(len(a))
    for k in range(len(a)):
        here = slice(None) if where is None else where[k]
        # in float64 the sum is exact; int32 overflows where a whole picture of 320 pixels is wrong
        difference = a[k][here].astype(np.float64).ravel() - b[k][here].ravel()
        total[k], count[k] = difference @ difference, difference.size
    return total, count


def psnr(total: PerView, count: PerView) -> PerView:
    """Peak signal-to-noise ratio in dB of 8-bit pictures from ``squared_errors``.

    At most ``BEST_PSNR``; not a number where nothing was compared.
    """
    error = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return 10 * np.log10(255.0**2 / np.maximum(error, ROUNDING_ERROR))


def iou(a: Masks, b: Masks) -> PerView:
    """Intersection over union [V] of masks [V, H, W]; 1 where both are empty."""
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


@cache
def _window(size: int) -> NDArray[np.float32]:
    """Gaussian blur of ``size`` pixels as a banded matrix [size, size]: sigma 1.5, 11 taps, mirrored at the border."""
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset**2) / (2 * 1.5**2))
    matrix = np.zeros((size, size))
    for o, w in zip(offset, weight / weight.sum(), strict=True):
        source = np.abs(np.arange(size) + o)
        source = np.where(source >= size, 2 * (size - 1) - source, source)
        matrix[np.arange(size), source] += w
    return matrix.astype(np.float32)


def ssim(a: Views, b: Views) -> PerView:
    """Structural similarity [V] of uint8 [V, H, W, 3] with at least 11 pixels a side.

    Wang et al. 2004 (Image quality assessment: from error visibility to structural similarity, eq. 13): Gaussian
    window of sigma 1.5, K1 = 0.01, K2 = 0.03, mean over pixels and channels; the numbers are torchmetrics'. Where no
    pixel of the window differs the index is 1, so only the rest is computed.
    """
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for k in range(len(a)):
        red, green, blue = np.moveaxis(a[k] != b[k], -1, 0)
        differs = red | green | blue
        if not differs.any():
            values.append(1.0)
            continue
        height, width = differs.shape
        rows, columns = _reach(differs.any(1)), _reach(differs.any(0))
        down, across = _window(height)[rows], _window(width)[columns].T
        x, y = (np.moveaxis(v[k], -1, 0).astype(np.float32) / 255 for v in (a, b))
        mx, my, xx, yy, xy = down @ np.stack([x, y, x * x, y * y, x * y]) @ across  # each [3 h w]
        index = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
        index /= (mx * mx + my * my + c1) * (np.maximum(xx - mx * mx, 0) + np.maximum(yy - my * my, 0) + c2)
        values.append(1 - float(np.sum(1 - index, dtype=np.float64)) / (3 * height * width))
    return np.array(values)


def _reach(differs: NDArray[np.bool_]) -> slice:
    """Rows (or columns) whose window holds one that differs."""
    found = np.flatnonzero(differs)
    return slice(max(int(found[0]) - 5, 0), int(found[-1]) + 6)


def colour_shift(views: Views, masks: Masks, truth: Views, true_masks: Masks) -> PerView:
    """Distance in L*a*b* (CIE 1976) [V] between the mean foreground colours; not a number where one has none.

    It sees a drift of colour whatever the shape: each picture's mean is over its own mask.
    """
    values = []
    for k in range(len(views)):
        if masks[k].any() and true_masks[k].any():
            shift = lab(views[k][masks[k]]).mean(0) - lab(truth[k][true_masks[k]]).mean(0)
            values.append(float(np.linalg.norm(shift)))
        else:
            values.append(np.nan)
    return np.array(values)


def mean(values: Iterable[float]) -> float:
    """Mean of those ``values`` that are numbers; not a number when there is none."""
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _mean(values: PerView, reference_view: int) -> Figure:
    return Figure(mean(values), mean(np.delete(values, reference_view)), tuple(values.tolist()))


def _pooled(total: PerView, count: PerView, reference_view: int) -> Figure:
    """PSNR of all views and of the novel ones, each as one picture."""
    novel = [np.delete(values, reference_view).sum() for values in (total, count)]
    return Figure(
        float(psnr(total.sum(), count.sum())), float(psnr(*novel)), tuple(psnr(total, count).tolist())
    )  # fmt: skip
