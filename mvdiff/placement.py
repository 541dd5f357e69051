"""Where pictures show their subject, and the square to cut out of a picture so that it shows its subject there too."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.framing import Framing, on_white

OPAQUE = 128
"""Alpha from which a pixel counts as the subject."""

_DARK = 20
"""So many levels below white a pixel on white ground counts as the subject."""

Range = tuple[float, float, float]
"""Lowest usual, median and highest usual value (5th, 50th and 95th percentile)."""


@dataclass(frozen=True)
class Placement:
    """The subject's bounding box in the square pictures that a model was trained on, in shares of their side."""

    extent: Range
    """Longer side of the box."""
    across: Range
    """Its centre, from the left."""
    down: Range
    """Its centre, from the top."""

    @classmethod
    def measured(cls, views: Iterable[NDArray[np.uint8]]) -> Self:
        """From views uint8 [V, H, H, 3] on white; ``InputError`` where all are blank."""
        boxes = []
        for picture in (view for group in views for view in group):
            mask = picture.min(-1) < 255 - _DARK
            if mask.any():
                left, top, right, bottom = bounding_box(mask)
                boxes.append(
                    np.array([max(right - left, bottom - top), (left + right) / 2, (top + bottom) / 2]) / len(mask)
                )
        if not boxes:
            raise InputError("every training view is blank", "check that the views show a mouse on white")
        low, middle, high = np.percentile(boxes, [5, 50, 95], axis=0).round(4).tolist()
        return cls(*zip(low, middle, high, strict=True))

    @classmethod
    def read(cls, values: Any) -> Self:
        """What ``written`` gave; ``InputError`` where it is something else."""
        try:
            ranges = {name: tuple(float(value) for value in values[name]) for name in ("extent", "across", "down")}
            if any(len(r) != 3 or sorted(r) != list(r) for r in ranges.values()) or ranges["extent"][1] <= 0:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{values!r} is no placement of a subject", "give an undamaged checkpoint") from None
        return cls(**ranges)  # type: ignore[arg-type]

    def written(self) -> dict[str, list[float]]:
        """Plain JSON values."""
        return {"extent": list(self.extent), "across": list(self.across), "down": list(self.down)}

    def fits(self, mask: NDArray[np.bool_]) -> bool:
        """Whether a square picture with the subject at ``mask`` bool [H, H] is like those of training already."""
        left, top, right, bottom = bounding_box(mask)
        size = len(mask)
        values = (max(right - left, bottom - top) / size, (left + right) / 2 / size, (top + bottom) / 2 / size)
        slack = 0.5 / size
        return all(
            low - slack <= value <= high + slack
            for value, (low, _, high) in zip(values, (self.extent, self.across, self.down), strict=True)
        )

    def square(self, mask: NDArray[np.bool_]) -> tuple[int, int, int]:
        """Left, top and side in pixels of the square that shows the subject at ``mask`` as training's median does.

        It may reach beyond the picture.
        """
        left, top, right, bottom = bounding_box(mask)
        side = max(1, round(max(right - left, bottom - top) / self.extent[1]))
        return round((left + right) / 2 - self.across[1] * side), round((top + bottom) / 2 - self.down[1] * side), side


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (the last two exclusive) of what is set in ``mask`` bool [H, W], which is not empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def framed(
    picture: NDArray[np.uint8], size: int, placement: Placement, mask: NDArray[Any] | None = None
) -> NDArray[np.uint8]:
    """uint8 [size, size, 3] on white, framed as training frames its pictures.

    ``picture`` is uint8 [H, W] (grey), [H, W, 3], or [H, W, 4] with straight alpha. ``mask`` [H, W], bool or uint8 (255
    on the subject), stands for alpha where a picture has another background. The largest centred square is taken; where
    alpha or a mask tells where the subject is, and training has shown none so placed, a square that shows it as
    training does. Raises ``InputError`` for other pictures and for an empty mask.
    """
    picture = np.asarray(picture)
    if picture.dtype == np.uint8 and picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, 2)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (3, 4) or 0 in picture.shape:
        raise InputError(
            f"a picture is {picture.dtype} {list(picture.shape)}", "give uint8 [H, W], [H, W, 3] or [H, W, 4]"
        )
    alpha = _alpha(picture, mask)
    colours = picture[..., :3] if alpha is None else on_white(np.dstack([picture[..., :3], alpha]))
    framing = Framing(picture.shape[1], picture.shape[0], size)
    if alpha is None:
        return framing.picture(colours)
    subject = alpha >= OPAQUE
    if not subject.any():
        raise InputError("a picture's mask or alpha is empty", "give pictures that show something")
    left, top, right, bottom = framing.box
    within = subject[top:bottom, left:right]
    if within.sum() == subject.sum() and placement.fits(within):
        return framing.picture(colours)
    left, top, side = placement.square(subject)
    # PIL pads what lies beyond the picture; its own fill would be black
    cut = Image.new("RGB", (side, side), "white")
    cut.paste(Image.fromarray(colours), (-left, -top))
    return Framing(side, side, size).picture(np.asarray(cut))


def _alpha(picture: NDArray[np.uint8], mask: NDArray[Any] | None) -> NDArray[np.uint8] | None:
    if mask is None:
        return picture[..., 3] if picture.shape[2] == 4 else None
    mask = np.asarray(mask)
    if mask.shape != picture.shape[:2] or mask.dtype not in (np.bool_, np.uint8):
        raise InputError(
            f"a mask is {mask.dtype} {list(mask.shape)} for a picture {list(picture.shape)}",
            "give bool or uint8 of the picture's height and width",
        )
    return mask.astype(np.uint8) * 255 if mask.dtype == np.bool_ else mask
