"""The two ways in which one UNet sees the six views of a sample.

``tile``: one image of three rows and two columns, row-major, as Zero123++ was trained. ``views``: six images in the
batch axis. Self-attention over the tile equals joint attention over the six; convolutions and group norms do not.
"""

from collections.abc import Sequence

from torch import Tensor

ROWS, COLUMNS = 3, 2


def tile(views: Tensor, slots: Sequence[int]) -> Tensor:
    """[B, C, 3 h, 2 w] of ``views`` [B, 6, C, h, w]; slot ``k`` of the tile shows view ``slots[k]``."""
    samples, _, channels, height, width = views.shape
    grid = views[:, list(slots)].unflatten(1, (ROWS, COLUMNS)).permute(0, 3, 1, 4, 2, 5)  # [B, C, 3, h, 2, w]
    return grid.reshape(samples, channels, ROWS * height, COLUMNS * width)


def untile(tiled: Tensor, slots: Sequence[int]) -> Tensor:
    """The views [B, 6, C, h, w] that ``tile`` put into ``tiled`` [B, C, 3 h, 2 w]."""
    samples, channels, height, width = tiled.shape
    grid = tiled.reshape(samples, channels, ROWS, height // ROWS, COLUMNS, width // COLUMNS)
    views = grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [B, 6, C, h, w], in the order of slots
    return views[:, sorted(range(len(slots)), key=slots.__getitem__)]
