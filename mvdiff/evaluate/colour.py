"""sRGB to CIE L*a*b*, where a distance of about 2 is what a person just notices."""

import numpy as np
from numpy.typing import NDArray

# IEC 61966-2-1 for sRGB; D65 white, 2 degree observer (CIE 15).
_ENCODED = np.arange(256) / 255.0
_LINEAR = np.where(_ENCODED <= 0.04045, _ENCODED / 12.92, ((_ENCODED + 0.055) / 1.055) ** 2.4).astype(np.float32)
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    np.float32,
)
_RELATIVE_TO_WHITE = _XYZ / _XYZ.sum(1, keepdims=True)


def lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """L*, a*, b* float32 [..., 3] of sRGB uint8 [..., 3]."""
    xyz = _LINEAR[rgb] @ _RELATIVE_TO_WHITE.T
    delta = 6.0 / 29.0
    f = np.where(xyz > delta**3, np.cbrt(xyz), xyz / (3 * delta**2) + 4.0 / 29.0)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)
