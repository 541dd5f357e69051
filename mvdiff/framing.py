"""From a picture of any shape, with or without alpha, to a square RGB one on white, its intrinsics following."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.rig import cropped


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB uint8 [..., 3] of straight-alpha RGBA uint8 [..., 4] over white, rounded to the nearest integer."""
    alpha = rgba[..., 3:].astype(np.uint32)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


@dataclass(frozen=True)
class Framing:
    """The largest centred square of a ``width`` x ``height`` picture, resized to ``size`` x ``size`` pixels."""

    width: int
    height: int
    size: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the square in pixels of the picture."""
        side = min(self.width, self.height)
        left, top = (self.width - side) // 2, (self.height - side) // 2
        return left, top, left + side, top + side

    def picture(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] or [H, W] to [size, size, 3] or [size, size].

        Compose on white first: that is linear, as resizing is, so edges come out as if colours had been premultiplied
        with alpha, without dark fringes.
        """
        left, top, right, bottom = self.box
        square = np.ascontiguousarray(values[top:bottom, left:right])
        if square.shape[0] == self.size:
            return square
        return np.asarray(Image.fromarray(square).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def intrinsics(self, k: NDArray[np.float64]) -> NDArray[np.float64]:
        """K [..., 3, 3] of the picture to that of the result (pixel coordinates count from the outer corner)."""
        left, top, right, _ = self.box
        return cropped(k, left, top, right - left, self.size)
