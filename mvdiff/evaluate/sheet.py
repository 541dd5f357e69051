"""Contact sheets: a sample's input, true views and generated views in one small picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.lettering import LINE, line
from mvdiff.rig import VIEWS

COLUMNS = VIEWS + 1
LABELS = 54
"""Pixels between the input and the views of a ``labelled`` strip, where words say which row is which."""
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
    """A ``strip`` uint8 [2 tile, 7 tile, 3] under the sample's id, with words at the middle of its rows that say what
    is true: [LINE + 2 tile, 7 tile + LABELS, 3]."""
    labels = Image.new("RGB", (LABELS, 2 * tile), "white")
    for row, word in enumerate(("truth →", "made →")):
        labels.paste(Image.fromarray(line([word], LABELS)), (0, row * tile + (tile - LINE) // 2))
    rows = np.concatenate([drawn[:, :tile], np.asarray(labels), drawn[:, tile:]], axis=1)
    return np.concatenate([line([sample_id], COLUMNS * tile + LABELS), rows])


def headed(sheet: NDArray[np.uint8], azimuth: Sequence[float], reference: int) -> NDArray[np.uint8]:
    """A ``labelled`` sheet uint8 [H, 7 tile + LABELS, 3] under a line that names its columns: [H + LINE, ..., 3].

    ``azimuth`` in degrees of the six views, of which ``reference`` is the input.
    """
    names = [f"azimuth {angle:g}" for angle in azimuth]
    tile = (sheet.shape[1] - LABELS) // COLUMNS
    head = [line([f"input, {names[reference]}"], tile), line([""], LABELS), line(names, tile)]
    return np.concatenate([np.concatenate(head, axis=1), sheet])


def stacked(strips: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Strips uint8 [h, w, 3] of several samples one below the other, with a grey line between two: [H, w, 3]."""
    line = np.full((_LINE, *strips[0].shape[1:]), _GREY, np.uint8)
    parts = [part for one in strips for part in (line, one)]
    return np.concatenate(parts[1:])


def _tile(picture: NDArray[np.uint8], tile: int) -> Image.Image:
    return Image.fromarray(picture).resize((tile, tile), Image.Resampling.LANCZOS)
