"""Contact sheets: a sample's input, true views and generated views in one small picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.lettering import LINE, line
from mvdiff.rig import VIEWS

COLUMNS = VIEWS + 1
_QUALITY = 80
_LINE, _GREY = 2, 160


def write_sheet(
    path: Path, picture: NDArray[np.uint8], truth: NDArray[np.uint8], views: NDArray[np.uint8], tile: int
) -> None:
    """Write the ``strip`` of one sample to ``path`` as WebP."""
    Image.fromarray(strip(picture, truth, views, tile)).save(path, "WEBP", quality=_QUALITY)


def strip(
    picture: NDArray[np.uint8], truth: NDArray[np.uint8], views: NDArray[np.uint8], tile: int
) -> NDArray[np.uint8]:
    """uint8 [2 tile, 7 tile, 3]: the input ``picture`` at the left, ``truth`` [6 H W 3] above ``views`` [6 H W 3]."""
    sheet = Image.new("RGB", (COLUMNS * tile, 2 * tile), "white")
    sheet.paste(_tile(picture, tile), (0, tile // 2))
    for row, of_row in enumerate((truth, views)):
        for k in range(VIEWS):
            sheet.paste(_tile(of_row[k], tile), ((k + 1) * tile, row * tile))
    return np.asarray(sheet)


def labelled(drawn: NDArray[np.uint8], sample_id: str, tile: int) -> NDArray[np.uint8]:
    """A ``strip`` uint8 [2 tile, 7 tile, 3] under the sample's id, with words in front of its rows that say what is
    true: [LINE + 2 tile, 7 tile, 3]."""
    sheet = Image.fromarray(np.concatenate([line([sample_id], COLUMNS * tile), drawn]))
    # above and below the input its column is white
    for word, middle in (("truth →", tile // 4), ("made →", 2 * tile - tile // 4)):
        sheet.paste(Image.fromarray(line([word], tile // 2)), (tile // 2, LINE + middle - LINE // 2))
    return np.asarray(sheet)


def headed(sheet: NDArray[np.uint8], azimuth: Sequence[float], reference: int) -> NDArray[np.uint8]:
    """``sheet`` uint8 [H, 7 tile, 3] under a line that names its columns: [H + LINE, 7 tile, 3].

    ``azimuth`` in degrees of the six views, of which ``reference`` is the input.
    """
    names = [f"azimuth {angle:g}" for angle in azimuth]
    return np.concatenate([line([f"input, {names[reference]}", *names], sheet.shape[1] // COLUMNS), sheet])


def stacked(strips: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Strips uint8 [h, w, 3] of several samples one below the other, with a grey line between two: [H, w, 3]."""
    line = np.full((_LINE, *strips[0].shape[1:]), _GREY, np.uint8)
    parts = [part for one in strips for part in (line, one)]
    return np.concatenate(parts[1:])


def _tile(picture: NDArray[np.uint8], tile: int) -> Image.Image:
    return Image.fromarray(picture).resize((tile, tile), Image.Resampling.LANCZOS)
