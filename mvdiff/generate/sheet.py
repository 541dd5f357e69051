"""``sheet.png`` in a result set: inputs and generated views of a few samples, growing while the set does."""

import functools
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mvdiff.durable import published
from mvdiff.errors import InputError, one_line
from mvdiff.generate.plan import Plan
from mvdiff.rig import rig
from mvdiff.shard import ShardReader

NAME = "sheet.png"
ROWS = 16
"""Samples on a full sheet, taken evenly from the plan."""
_TILE = 128
_SHOWN = "slices"
"""The text in the PNG that numbers the slices on it."""
_QUICK = 1
"""zlib's level: a third of the time of its usual one, for a file a fifth larger."""
_LINE, _GREY = 18, 160


class Sheet:
    """The sheet of ``plan``, drawn again at most every ``seconds``, by whichever worker comes to it."""

    def __init__(self, plan: Plan, seconds: float) -> None:
        self._plan, self._seconds = plan, seconds
        self._path = plan.folder / NAME
        self._drawn_at = -float("inf")
        self._seen: float | None = None
        self._strips: dict[int, NDArray[np.uint8] | None] = {}
        """What was drawn of the slices on the last sheet."""

    def grow(self) -> None:
        """Draw it again, unless somebody did so just now."""
        with suppress(OSError):
            changed = self._path.stat().st_mtime if self._path.exists() else None
            if changed != self._seen:
                # No clocks are compared: another's drawing counts from when it is noticed here.
                self._seen, self._drawn_at = changed, time.monotonic()
        if time.monotonic() - self._drawn_at >= self._seconds:
            self.draw()

    def draw(self) -> None:
        """Draw it now. A sheet that cannot be drawn is no reason to stop a worker."""
        self._drawn_at = time.monotonic()
        with suppress(OSError, InputError, ValueError, LookupError):
            chosen = self._chosen()
            shown = " ".join(map(str, chosen))
            if self._shown() == shown:
                return
            self._strips = {k: self._strips[k] if k in self._strips else self._strip(k) for k in chosen}
            strips = [strip for strip in self._strips.values() if strip is not None]
            if strips:
                told = PngInfo()
                told.add_text(_SHOWN, shown)
                with published(self._path) as temporary:
                    columns = ["input", *(f"azimuth {angle:g}" for angle in rig(self._plan.recipe.rig).azimuth)]
                    sheet = Image.fromarray(np.concatenate([_line(columns), *strips]))
                    sheet.save(temporary, "PNG", pnginfo=told, compress_level=_QUICK)
                self._seen = self._path.stat().st_mtime

    def _shown(self) -> str | None:
        """What the sheet that is there, maybe by another worker, says that it shows."""
        with suppress(OSError), Image.open(self._path) as sheet:
            return sheet.info.get(_SHOWN)
        return None

    def sweep(self) -> None:
        """Delete what workers left that were killed while they drew; one that still draws does without."""
        for path in self._path.parent.glob(f".{NAME}.*"):
            path.unlink(missing_ok=True)

    def _chosen(self) -> list[int]:
        """Numbers of the published slices to show."""
        there = self._plan.published()
        numbers = [k for k, name in enumerate(self._plan.sizes()) if name in there]
        return [numbers[round(k)] for k in np.linspace(0, len(numbers) - 1, min(ROWS, len(numbers)))]

    def _strip(self, number: int) -> NDArray[np.uint8] | None:
        """uint8 [tile + line, 7 tile, 3]: a slice's first input and its views; None where it has none."""
        part = self._plan.slice_at(number)
        with ShardReader(self._plan.folder / part.file_name) as reader:
            if not len(reader):
                return None
            made = reader.sample(0)
        place = part.ids.index(made.sample_id)
        tiles: list[NDArray[np.uint8]] = []
        with suppress(InputError, OSError, LookupError), ShardReader(part.shards[place]) as reader:
            tiles.append(_tile(reader.sample(part.rows[place]).views[self._plan.recipe.reference_view]))
        tiles = tiles or [np.full((_TILE, _TILE, 3), _GREY, np.uint8)]
        pictures = np.concatenate([*tiles, *(_tile(view) for view in made.views)], axis=1)
        return np.concatenate([pictures, _line([one_line(made.sample_id)])])


def _tile(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.HAMMING))


def _line(words: Sequence[str]) -> NDArray[np.uint8]:
    """uint8 [line, 7 tile, 3]: words, each above its own column."""
    line = Image.new("RGB", (7 * _TILE, _LINE), "white")
    pen, font = ImageDraw.Draw(line), _font()
    for column, word in enumerate(words):
        pen.text((column * _TILE + 3, 1), word, fill="black", font=font)
    return np.asarray(line)


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_LINE - 5)


def sheet_path(folder: Path) -> Path | None:
    """The sheet of the result set ``folder``, once there is one."""
    path = folder / NAME
    return path if path.exists() else None
