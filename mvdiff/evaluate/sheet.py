"""Contact sheets: a sample's input, true views and generated views in one small picture."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.rig import VIEWS

COLUMNS = VIEWS + 1
_QUALITY = 80


def write_sheet(
    path: Path, picture: NDArray[np.uint8], truth: NDArray[np.uint8], views: NDArray[np.uint8], tile: int
) -> None:
    """Write a WebP of 7 x 2 tiles to ``path``: the input ``picture`` at the left, ``truth`` [6] above ``views`` [6]."""
    sheet = Image.new("RGB", (COLUMNS * tile, 2 * tile), "white")
    sheet.paste(_tile(picture, tile), (0, tile // 2))
    for row, of_row in enumerate((truth, views)):
        for k in range(VIEWS):
            sheet.paste(_tile(of_row[k], tile), ((k + 1) * tile, row * tile))
    sheet.save(path, "WEBP", quality=_QUALITY)


def _tile(picture: NDArray[np.uint8], tile: int) -> Image.Image:
    return Image.fromarray(picture).resize((tile, tile), Image.Resampling.LANCZOS)
