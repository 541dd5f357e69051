"""Soft light that stands still in the world while the mouse turns."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SKY, _GROUND = np.array([0.85, 0.86, 0.88]), np.array([0.54, 0.525, 0.52])
_KEY = np.array([0.24, 0.235, 0.225])
_KEY_DIRECTION = np.array([0.42, 0.30, 0.857])
_BRIGHTEST = 0.94
"""Of a lit surface: a white mouse has to stand out from the white it is drawn on."""


def lit(colours: Floats, normals: Floats, occlusion: Floats) -> Floats:
    """Colours [V, 3] of matt surfaces under a bright sky, a darker ground and one wide lamp high up.

    ``normals`` [V, 3] are of unit length; ``occlusion`` [V] is 0 in the open and 1 where no light comes. Nothing
    depends on the viewer: a point of the surface has the same colour in every view that sees it.
    """
    sky = (0.5 + 0.5 * normals[:, 2:3]) ** 0.8
    towards = sum(normals[:, i] * _KEY_DIRECTION[i] for i in range(3))
    lamp = np.maximum((towards + 0.35) / 1.35, 0.0)[:, None] ** 1.5
    light = _GROUND + (_SKY - _GROUND) * sky + _KEY * lamp
    return np.clip(colours * light * (1 - occlusion[:, None]), 0.0, _BRIGHTEST)
