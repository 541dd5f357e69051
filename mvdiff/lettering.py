"""Words on pictures, in letters that are there on every machine."""

import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LINE = 18
"""Pixels a line of words takes."""
_FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
_SIZE, _MARGIN = 12, 3
_NOBODY = "\U0010ffff"
"""A character that no font has."""


def line(words: Sequence[str], column: int) -> NDArray[np.uint8]:
    """uint8 [line, len(words) column, 3]: black words on white, each from the left of its own ``column`` pixels.

    Characters that the font lacks stand as escapes; words that are too long lose their middle.
    """
    drawn = Image.new("RGB", (len(words) * column, LINE), "white")
    pen = ImageDraw.Draw(drawn)
    for k, word in enumerate(words):
        pen.text((k * column + _MARGIN, 1), fitted(word, column - 2 * _MARGIN), fill="black", font=_font())
    return np.asarray(drawn)


def fitted(word: str, width: int) -> str:
    """``word`` as it can be drawn, in ``width`` pixels at most."""
    drawable = "".join(map(_drawable, unicodedata.normalize("NFC", word)))
    if _font().getlength(drawable) <= width:
        return drawable
    fewer, more = 0, len(drawable) - 1
    while fewer < more:
        kept = (fewer + more + 1) // 2
        fewer, more = (kept, more) if _font().getlength(_without_middle(drawable, kept)) <= width else (fewer, kept - 1)
    return _without_middle(drawable, fewer)


def _without_middle(word: str, kept: int) -> str:
    return f"{word[: kept - kept // 2]}…{word[len(word) - kept // 2 :]}"


@functools.cache
def _drawable(character: str) -> str:
    lacking = bytes(_font().getmask(character)) == bytes(_font().getmask(_NOBODY))
    return character.encode("unicode_escape").decode() if lacking else character


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT), _SIZE, layout_engine=ImageFont.Layout.BASIC)
