"""``sheet.png`` in a result set: inputs and generated views of a few samples, growing while the set does."""

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mvdiff.durable import published
from mvdiff.errors import InputError
from mvdiff.generate.plan import Plan, Slice
from mvdiff.lettering import line
from mvdiff.rig import VIEWS, rig
from mvdiff.shard import Sample, ShardReader

NAME = "sheet.png"
ROWS = 12
"""Samples on a full sheet, taken evenly from what there is: several of each slice where there are few."""
COLUMN = 6
"""Samples below each other; a sheet of more has two such columns, so that it fits a screen."""
_TILE = 128
_WIDTH = (1 + VIEWS) * _TILE
_SHOWN = "slices"
"""The text in the PNG that tells the slices on it, and how many samples of each."""
_QUICK = 1
"""zlib's level: a third of the time of its usual one, for a file a fifth larger."""
_GAP, _GREY = 24, 160


class Sheet:
    """The sheet of ``plan``, drawn again at most every ``seconds``, by whichever worker comes to it."""

    def __init__(self, plan: Plan, seconds: float) -> None:
        self._plan, self._seconds = plan, seconds
        self._path = plan.folder / NAME
        self._drawn_at = -float("inf")
        self._seen: float | None = None
        self._strips: dict[tuple[int, int], list[NDArray[np.uint8]]] = {}
        """What was drawn on the last sheet, by number of a slice and how many of its samples are shown."""

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
            shown = " ".join(f"{number}:{samples}" for number, samples in chosen)
            if self._shown() == shown:
                return
            self._strips = {one: self._strips[one] if one in self._strips else self._drawn(*one) for one in chosen}
            strips = [strip for drawn in self._strips.values() for strip in drawn]
            if strips:
                told = PngInfo()
                told.add_text(_SHOWN, shown)
                with published(self._path) as temporary:
                    sheet = Image.fromarray(self._laid_out(strips))
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

    def _chosen(self) -> list[tuple[int, int]]:
        """Numbers of the published slices to show, and how many samples of each."""
        there = self._plan.published()
        sizes = {k: size for k, (name, size) in enumerate(self._plan.sizes().items()) if name in there}
        if not sizes:
            return []
        ends = np.cumsum(list(sizes.values()))
        samples = np.linspace(0, ends[-1] - 1, min(ROWS, ends[-1])).round()
        numbers = list(sizes)
        return sorted(Counter(numbers[k] for k in np.searchsorted(ends, samples, side="right")).items())

    def _drawn(self, number: int, samples: int) -> list[NDArray[np.uint8]]:
        """A strip for each of ``samples`` samples of a slice, or of those that it has."""
        part = self._plan.slice_at(number)
        with ShardReader(self._plan.folder / part.file_name) as reader:
            rows = np.linspace(0, len(reader) - 1, min(samples, len(reader))).round().astype(int)
            made = [reader.sample(row) for row in rows.tolist()]
        return [self._strip(part, sample) for sample in made]

    def _strip(self, part: Slice, made: Sample) -> NDArray[np.uint8]:
        """uint8 [line + tile, 7 tile, 3]: a sample's id, its input and its views."""
        place = part.ids.index(made.sample_id)
        tiles: list[NDArray[np.uint8]] = []
        with suppress(InputError, OSError, LookupError), ShardReader(part.shards[place]) as reader:
            tiles.append(_tile(reader.sample(part.rows[place]).views[self._plan.recipe.reference_view]))
        tiles = tiles or [np.full((_TILE, _TILE, 3), _GREY, np.uint8)]
        pictures = np.concatenate([*tiles, *(_tile(view) for view in made.views)], axis=1)
        return np.concatenate([line([made.sample_id], _WIDTH), pictures])

    def _laid_out(self, strips: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]: the strips below each other, the longer half at the left where they are many."""
        recipe = self._plan.recipe
        azimuth = [f"azimuth {angle:g}" for angle in rig(recipe.rig).azimuth]
        head = line([f"input, {azimuth[recipe.reference_view]}", *azimuth], _TILE)
        height = len(strips) if len(strips) <= COLUMN else -(-len(strips) // 2)
        columns = [np.concatenate([head, *strips[at : at + height]]) for at in range(0, len(strips), height)]
        sheet = np.full((len(columns[0]), len(columns) * (_WIDTH + _GAP) - _GAP, 3), 255, np.uint8)
        for k, column in enumerate(columns):
            sheet[: len(column), k * (_WIDTH + _GAP) :][:, :_WIDTH] = column
        return sheet


def _tile(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.HAMMING))


def sheet_path(folder: Path) -> Path | None:
    """The sheet of the result set ``folder``, once there is one."""
    path = folder / NAME
    return path if path.exists() else None
