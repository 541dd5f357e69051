"""Camera rigs: which six views there are, in which order, seen from where.

One convention everywhere: world Z-up, the subject at the origin, azimuth counter-clockwise seen from above and measured
from +X, elevation above the horizon, cameras looking at the origin. ``w2c`` matrices use OpenCV axes (x right, y down,
z forward).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvdiff.errors import InputError

VIEWS = 6


def look_at_origin(azimuth: ArrayLike, elevation: ArrayLike, distance: ArrayLike) -> NDArray[np.float32]:
    """``w2c`` float32 [..., 4, 4] of cameras that look at the origin.

    ``azimuth`` and ``elevation`` in degrees, ``distance`` in world units; all broadcast. At elevation +-90 the camera's
    up direction is undefined and a ``ValueError`` is raised.
    """
    azimuth, elevation, distance = np.broadcast_arrays(
        np.asarray(azimuth, float), np.asarray(elevation, float), np.asarray(distance, float)
    )
    if np.any(np.abs(elevation) > 89.9):
        raise ValueError("a camera straight above or below the origin has no up direction")
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    outward = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    forward = -outward
    right = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], -1)
    down = np.cross(forward, right)
    w2c = np.zeros((*a.shape, 4, 4))
    w2c[..., :3, :3] = np.stack([right, down, forward], -2)
    w2c[..., 2, 3] = distance
    w2c[..., 3, 3] = 1
    return w2c.astype(np.float32)


def camera_centre(w2c: ArrayLike) -> NDArray[np.float64]:
    """World position [..., 3] of cameras given as ``w2c`` [..., 4, 4]."""
    w2c = np.asarray(w2c, float)
    return -np.einsum("...ji,...j->...i", w2c[..., :3, :3], w2c[..., :3, 3])


def angles(w2c: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Azimuth in [0, 360), elevation (both in degrees) and distance of cameras given as ``w2c`` [..., 4, 4]."""
    x, y, z = np.moveaxis(camera_centre(w2c), -1, 0)
    azimuth = np.rad2deg(np.arctan2(y, x)) % 360.0
    elevation = np.rad2deg(np.arctan2(z, np.hypot(x, y)))
    return azimuth, elevation, np.sqrt(x * x + y * y + z * z)


def angle_between(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Smallest absolute difference of two angles in degrees, in [0, 180]."""
    return np.abs((np.asarray(a, float) - np.asarray(b, float) + 180.0) % 360.0 - 180.0)


@dataclass(frozen=True)
class Rig:
    """Six cameras around the subject: view ``k`` stands at ``azimuth[k]``, ``elevation[k]`` (degrees)."""

    name: str
    azimuth: tuple[float, ...]
    elevation: tuple[float, ...]
    fov: float
    """Field of view in degrees, the same across and down."""
    distance: float
    """Distance of every camera from the origin, in world units (the subject fits in a ball of radius 0.5)."""

    def w2c(self) -> NDArray[np.float32]:
        """float32 [6, 4, 4]."""
        return look_at_origin(self.azimuth, self.elevation, self.distance)

    def intrinsics(self, size: int) -> NDArray[np.float32]:
        """float32 [6, 3, 3] for square pictures of ``size`` pixels."""
        focal = 0.5 * size / np.tan(np.deg2rad(self.fov) / 2)
        k = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)
        return np.repeat(k[None], VIEWS, 0)

    def differs(self, azimuth: ArrayLike, elevation: ArrayLike, tolerance: float = 1.0) -> str | None:
        """Say in words how cameras at ``azimuth`` [6], ``elevation`` [6] differ from the rig's; None if they agree."""
        azimuth, elevation = np.asarray(azimuth, float), np.asarray(elevation, float)
        wrong = (angle_between(azimuth, self.azimuth) > tolerance) | (np.abs(elevation - self.elevation) > tolerance)
        if not wrong.any():
            return None
        views = ", ".join(
            f"view {k} at azimuth {azimuth[k]:.0f} elevation {elevation[k]:.0f} instead of "
            f"{self.azimuth[k]:.0f} {self.elevation[k]:.0f}"
            for k in np.flatnonzero(wrong)[:2]
        )
        more = int(wrong.sum()) - 2
        return views + (f" and {more} more" if more > 0 else "")


_MOUSE_DISTANCE = float(0.5 / np.tan(np.deg2rad(15.0)))

RIGS = {
    rig.name: rig
    for rig in (Rig("mouse", (0.0, 60.0, 120.0, 180.0, 240.0, 300.0), (0.0,) * VIEWS, 30.0, _MOUSE_DISTANCE),)
}


def rig(name: str) -> Rig:
    """The rig called ``name``; an ``InputError`` names the known ones otherwise."""
    if name not in RIGS:
        raise InputError(f"unknown rig {name!r}", f"choose one of {', '.join(sorted(RIGS))}")
    return RIGS[name]
