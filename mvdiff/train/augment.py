"""How a training sample is varied: recoloured, mirrored and cropped, all six views alike, and its cameras with them.

Pure functions of a sample and of numbers drawn elsewhere (``mvdiff/train/draw.py``).
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.evaluate.foreground import WHITE_DISTANCE
from mvdiff.rig import Rig, cropped, flipped_cameras
from mvdiff.shard import Sample

_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""RGB to luma and two chroma axes (NTSC, 1953); the luma's weights are those of ITU-R BT.601 too."""
_LUMA = _YIQ[0]
_MATTE = np.minimum((255 - np.arange(256)) * 255 // WHITE_DISTANCE, 255).astype(np.uint8)
"""By a pixel's darkest channel: its coverage where no alpha is known, 0 for white alone."""


@dataclass(frozen=True)
class Colour:
    """A change of the subject's colours, in this order; 1, 1, 1, 0 is none."""

    brightness: float
    """Factor of every channel."""
    contrast: float
    """Factor of the distance from the subject's mean luma, taken over all six views."""
    saturation: float
    """Factor of the distance from the pixel's own luma."""
    hue: float
    """Turn of the colour circle, as a share of it: 1/3 makes red green."""


@dataclass(frozen=True)
class Window:
    """A square of the picture, in shares of its side: all of it is 0, 0, 1."""

    left: float
    top: float
    side: float


@dataclass(frozen=True)
class Variation:
    """All that is changed of a sample."""

    flip: bool
    """Whether the world is mirrored."""
    colour: Colour | None
    window: Window | None

    def applied(self, sample: Sample, rig: Rig) -> Sample:
        """``sample``, taken with ``rig``, as it is trained on; the same object where nothing is changed.

        A mirrored or cropped one has no alpha: nothing but a change of colours needs it.
        """
        if self.colour is not None:
            sample = recoloured(sample, self.colour)
        if self.flip or self.window is not None:
            sample = replace(sample, alpha=None)
        if self.flip:
            sample = mirrored(sample, rig)
        if self.window is not None:
            sample = cut(sample, self.window)
        return sample


def mirrored(sample: Sample, rig: Rig) -> Sample:
    """``sample`` of the world mirrored in the upright plane through the rig's view 0: again one of ``rig``.

    Twice is the identity. Raises ``InputError`` for a rig that is not its own mirror image.
    """
    order = _order(rig)
    views = np.empty_like(sample.views)
    for k, view in enumerate(order):
        # Channel by channel is eight times as fast as numpy's way with steps of three bytes backwards.
        for channel in range(3):
            views[k, :, :, channel] = sample.views[view, :, ::-1, channel]
    w2c, intrinsics = flipped_cameras(sample.w2c, sample.intrinsics, sample.size)
    # flipped_cameras mirrors in the plane of azimuth 0: what is left is a turn about Z.
    turn = 2 * rig.azimuth[0]
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    back = np.array([[c, s, 0, 0], [-s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    rows = list(order)
    return replace(
        sample,
        views=views,
        alpha=None if sample.alpha is None else np.ascontiguousarray(sample.alpha[rows, :, ::-1]),
        w2c=(w2c[rows] @ back).astype(np.float32),
        intrinsics=intrinsics[rows],
        azimuth=((turn - sample.azimuth[rows]) % 360.0).astype(np.float32),
        elevation=sample.elevation[rows],
    )


@cache
def _order(rig: Rig) -> tuple[int, ...]:
    order = rig.flip_order()
    if order is None:
        raise InputError(f"the rig {rig.described} is not its own mirror image", "set train.augment.flip=0")
    return order


def recoloured(sample: Sample, colour: Colour) -> Sample:
    """``sample`` with the subject's colours changed alike in all six views; where nothing covers, white stays white.

    Coverage is the sample's alpha, or where that is unknown rises with the distance from white, up to 1 at
    ``WHITE_DISTANCE``. Brightness, contrast and saturation as torchvision's ``ColorJitter`` has them; hue turns the
    chroma of the YIQ space, which leaves greys and luma alone. All of it is one affine change of colour.
    """
    matte = _matte(sample)
    subject = np.flatnonzero(matte)
    if not len(subject):
        return sample
    found = np.take(sample.views.reshape(-1, 3), subject, axis=0)  # [n, 3]
    covered = np.take(matte.reshape(-1), subject)  # uint8 [n]
    total = int(covered.sum(dtype=np.int64))
    # On white a pixel is a x + 255 (1 - a) for the subject's colour x and coverage a; this is the mean of x's luma.
    mean = 255 * (_LUMA @ found.sum(0, dtype=np.int64) - 255 * len(subject) + total) / total
    gain = colour.brightness * colour.contrast
    # The new pixel, a (matrix x + grey) + 255 (1 - a), in terms of the old one.
    matrix = (gain * _chroma(colour)).astype(np.float32)
    grey = (1 - colour.contrast) * colour.brightness * mean
    uncovered = 255 * (1 - gain)
    shift = covered * np.float32((grey - uncovered) / 255) + np.float32(uncovered + 0.5)
    pixels = found.T.astype(np.float32)  # [3, n]
    views = sample.views.copy()
    flat = views.reshape(-1, 3)
    # Sums written out, not a matrix product: the same bits on every machine, and no threads of its own.
    changed = matrix[:, :1] * pixels[0] + matrix[:, 1:2] * pixels[1] + matrix[:, 2:] * pixels[2] + shift
    flat[subject] = np.clip(changed, 0, 255).astype(np.uint8).T
    return replace(sample, views=views)


def _matte(sample: Sample) -> NDArray[np.uint8]:
    """Coverage uint8 [6, H, W]."""
    if sample.alpha is not None:
        return sample.alpha
    red, green, blue = np.moveaxis(sample.views, -1, 0)
    return np.take(_MATTE, np.minimum(np.minimum(red, green), blue))


def _chroma(colour: Colour) -> NDArray[np.float64]:
    """[3, 3]: saturation, then hue. Greys come through unchanged."""
    saturation = colour.saturation * np.eye(3) + (1 - colour.saturation) * _LUMA
    # From red by way of yellow to green is clockwise in the plane of I and Q.
    c, s = np.cos(2 * np.pi * colour.hue), np.sin(2 * np.pi * colour.hue)
    hue = np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]]) @ _YIQ
    return hue @ saturation


def cut(sample: Sample, window: Window) -> Sample:
    """``sample`` with all six views cut to the same ``window`` and enlarged to their old size, bicubic."""
    size = sample.size
    left, top, side = (size * share for share in (window.left, window.top, window.side))
    box = (left, top, left + side, top + side)

    def enlarged(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        result = np.empty_like(pictures)
        for k, picture in enumerate(pictures):
            result[k] = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box=box))
        return result

    return replace(
        sample,
        views=enlarged(sample.views),
        alpha=None if sample.alpha is None else enlarged(sample.alpha),
        intrinsics=cropped(sample.intrinsics, left, top, side, size).astype(np.float32),
    )
