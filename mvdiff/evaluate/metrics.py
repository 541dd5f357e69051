"""Scores of one set of six views against the truth, a number a view."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mvdiff.evaluate.colour import lab
from mvdiff.rig import VIEWS

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


def scores(views: Views, masks: Masks, truth: Views, true_masks: Masks) -> dict[str, PerView]:
    """Every metric of ``METRICS``, float [6] each: ``views`` against ``truth``, both uint8 [6, H, W, 3] with masks."""
    return {
        "foreground_iou": iou(masks, true_masks),
        "foreground_psnr": psnr(views, truth, masks | true_masks),
        "psnr": psnr(views, truth),
        "ssim": ssim(views, truth),
        "colour_shift": colour_shift(views, masks, truth, true_masks),
    }


def psnr(a: Views, b: Views, where: Masks | None = None) -> PerView:
    """Peak signal-to-noise ratio in dB [V] of uint8 [V, H, W, 3]; over the pixels ``where`` [V, H, W] if given.

    With the union of both masks as ``where`` it sees a subject that is missing and one that is there too much, but no
    white background. At most ``BEST_PSNR``; not a number where ``where`` is empty.
    """
    values = []
    for k in range(len(a)):
        here = slice(None) if where is None else where[k]
        difference = a[k][here].astype(np.float32) - b[k][here]
        if difference.size == 0:
            values.append(np.nan)
            continue
        error = float(np.mean(np.square(difference), dtype=np.float64))
        values.append(10 * np.log10(255.0**2 / max(error, ROUNDING_ERROR)))
    return np.array(values)


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
        differs = (a[k] != b[k]).any(-1)
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


def mean_over(values: PerView, left_out: int | None = None) -> float:
    """Mean of ``values`` [..., 6] without view ``left_out``, over those that are numbers; nan when there is none."""
    kept = np.delete(values, left_out, -1) if left_out is not None else values
    assert values.shape[-1] == VIEWS
    kept = kept[~np.isnan(kept)]
    return float(kept.mean()) if kept.size else float("nan")
