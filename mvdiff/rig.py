"""Cameras: which six views a rig has, in which order, seen from where; and what flips, crops and other rigs do to them.

One convention everywhere: world Z-up, the subject at the origin, azimuth counter-clockwise seen from above and measured
from +X, elevation above the horizon, cameras looking at the origin. ``w2c`` matrices use OpenCV axes (x right, y down,
z forward). Pixel coordinates count from the outer corner of the picture. Angles are in degrees.

Where the numbers of the known rigs come from:

``mouse``: azimuth and elevation of the turntable data that mouse pipelines use, with the field of view and distance of
    ``zero123plus-v1.2``, at which a ball of radius 0.5 fills the picture's height.
``zero123plus-v1.2``: its published rig, azimuth relative to the input picture.
``zero123plus-v1.1``: published azimuth and elevation. Its field of view and distance are not: v1.2's stand for them.
``facelift``: FaceLift's published cameras, 2.7 from the origin, focal length 548.99 pixels at 512, which is 50 degrees.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import permutations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvdiff.errors import InputError

F = TypeVar("F", bound=np.floating)

VIEWS = 6

RIGS: dict[str, "Rig"] = {}
"""The known rigs by name."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITS = {"azimuth": (-720.0, 720.0), "elevation": (-89.9, 89.9), "fov": (0.1, 179.0), "distance": (0.001, 1e6)}
_SAME_ANGLE = 1.0
"""Degrees within which two cameras stand at the same place, or see as much."""
_SAME_DISTANCE = 0.01
"""Share by which distances may differ and be the same."""
_SYMMETRY = 0.01
"""Degrees within which a mirrored camera stands where one of the rig does."""


def look_at_origin(azimuth: ArrayLike, elevation: ArrayLike, distance: ArrayLike) -> NDArray[np.float32]:
    """``w2c`` float32 [..., 4, 4] of cameras that look at the origin.

    ``azimuth`` and ``elevation`` in degrees, ``distance`` in world units; all broadcast. At elevation +-90 the camera's
    up direction is undefined and a ``ValueError`` is raised.
    """
    azimuth, elevation, distance = np.broadcast_arrays(
        np.asarray(azimuth, float), np.asarray(elevation, float), np.asarray(distance, float)
    )
    if np.any(np.abs(elevation) > _LIMITS["elevation"][1]):
        raise ValueError("a camera straight above or below the origin has no up direction")
    a = np.deg2rad(azimuth)
    forward = -_outward(azimuth, elevation)
    right = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], -1)
    down = np.cross(forward, right)
    w2c = np.zeros((*a.shape, 4, 4))
    w2c[..., :3, :3] = np.stack([right, down, forward], -2)
    w2c[..., 2, 3] = distance
    w2c[..., 3, 3] = 1
    return w2c.astype(np.float32)


def _outward(azimuth: ArrayLike, elevation: ArrayLike) -> NDArray[np.float64]:
    """Unit vectors [..., 3] from the origin towards cameras at these angles."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)


def camera_centre(w2c: ArrayLike) -> NDArray[np.float64]:
    """World position [..., 3] of cameras given as ``w2c`` [..., 4, 4]."""
    w2c = np.asarray(w2c, float)
    return -np.einsum("...ji,...j->...i", w2c[..., :3, :3], w2c[..., :3, 3])


def angles(w2c: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Azimuth in [0, 360), elevation (both in degrees) and distance of cameras given as ``w2c`` [..., 4, 4]."""
    x, y, z = np.moveaxis(camera_centre(w2c), -1, 0)
    elevation = np.rad2deg(np.arctan2(z, np.hypot(x, y)))
    return _folded(np.rad2deg(np.arctan2(y, x))), elevation, np.sqrt(x * x + y * y + z * z)


def _folded(azimuth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Into [0, 360), in float32 too, where what is just below 360 would round to it."""
    folded = azimuth % 360.0
    return np.where(folded.astype(np.float32) >= 360.0, 0.0, folded)


def angle_between(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Smallest absolute difference of two angles in degrees, in [0, 180]."""
    return np.abs((np.asarray(a, float) - np.asarray(b, float) + 180.0) % 360.0 - 180.0)


def relative(
    azimuth: ArrayLike, elevation: ArrayLike, distance: ArrayLike, fov: ArrayLike, reference: int
) -> NDArray[np.float32]:
    """float32 [..., 6, 4]: cameras as the model is told them, relative to view ``reference``.

    Of arrays [..., 6] or what broadcasts to that (angles in degrees, distances in world units): azimuth counted from
    the reference's, in [0, 360); difference of elevations; natural logarithm of distance over the reference's;
    difference of fields of view. Raises ``ValueError`` for a view that is none and a distance that is not positive.
    """
    own = slice(_view(reference), reference + 1)
    azimuth, elevation, distance, fov, _ = np.broadcast_arrays(
        *(np.asarray(value, float) for value in (azimuth, elevation, distance, fov)), np.empty(VIEWS)
    )
    if not np.all(distance > 0):
        raise ValueError("a camera's distance from the origin must be positive")
    return np.stack(
        [
            _folded(azimuth - azimuth[..., own]),
            elevation - elevation[..., own],
            np.log(distance / distance[..., own]),
            fov - fov[..., own],
        ],
        -1,
    ).astype(np.float32)


def _view(number: int) -> int:
    if not 0 <= number < VIEWS:
        raise ValueError(f"view {number} is none of 0 to {VIEWS - 1}")
    return number


def field_of_view(intrinsics: ArrayLike, size: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """Degrees [...] that ``intrinsics`` [..., 3, 3] see of a picture that is ``size`` pixels wide (axis 1: high)."""
    return np.rad2deg(2 * np.arctan2(np.asarray(size, float), 2 * np.asarray(intrinsics, float)[..., axis, axis]))


def cropped(intrinsics: ArrayLike, left: float, top: float, side: float, size: float) -> NDArray[np.float64]:
    """[..., 3, 3] after a square is cut out of the picture and resized to ``size`` pixels.

    ``left``, ``top`` and ``side`` in pixels of the picture that ``intrinsics`` [..., 3, 3] are of.
    """
    scale = size / side
    return np.array([[scale, 0, -scale * left], [0, scale, -scale * top], [0, 0, 1]]) @ np.asarray(intrinsics, float)


def flipped_cameras(w2c: NDArray[F], intrinsics: NDArray[F], size: int) -> tuple[NDArray[F], NDArray[F]]:
    """The cameras that see the mirrored world as the mirrored picture: ``w2c`` [..., 4, 4], K [..., 3, 3].

    The world is mirrored in the plane of world Z and the azimuth-0 axis (y becomes -y), the picture, ``size`` pixels
    wide, left to right. What comes out are proper rotations again; twice is the identity.
    """
    across, world = np.array([-1, 1, 1, 1], np.int8), np.array([1, -1, 1, 1], np.int8)
    mirrored = intrinsics * across[:3]
    mirrored[..., 0, :] = size * mirrored[..., 2, :] - mirrored[..., 0, :]
    return (w2c * np.outer(across, world)).astype(w2c.dtype), mirrored.astype(intrinsics.dtype)


@dataclass(frozen=True)
class Rig:
    """Six cameras around the subject: view ``k`` stands at ``azimuth[k]``, ``elevation[k]``.

    Raises ``InputError`` for numbers that are no cameras, and for a known rig's name with other numbers than its own.
    """

    name: str
    """1 to 64 of the characters A-Z a-z 0-9 . _ -"""
    azimuth: tuple[float, ...]
    """Six, in degrees; kept in [0, 360)."""
    elevation: tuple[float, ...]
    """Six, in degrees."""
    fov: float
    """Field of view in degrees, the same across and down."""
    distance: float
    """Distance of every camera from the origin, in world units (the subject fits in a ball of radius 0.5)."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InputError(
                f"a rig has the name {_brief(self.name)}", "give 1 to 64 of the characters A-Z a-z 0-9 . _ -"
            )
        for key in ("fov", "distance"):
            object.__setattr__(self, key, self._number(key, getattr(self, key)))
        for key in ("azimuth", "elevation"):
            values = getattr(self, key)
            if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or len(values) != VIEWS:
                raise InputError(f"rig {self.name} has {key} {_brief(values)}", "give six numbers, one a view")
            object.__setattr__(self, key, tuple(self._number(key, value) for value in values))
        object.__setattr__(self, "azimuth", tuple(_folded(np.array(self.azimuth)).tolist()))
        known = RIGS.get(self.name, self)
        for key in ("azimuth", "elevation", "fov", "distance"):
            if getattr(known, key) != getattr(self, key):
                raise InputError(
                    f"the known rig {self.name} has {key} {getattr(known, key)}, not {getattr(self, key)}",
                    "give a rig with other numbers another name",
                )

    def _number(self, key: str, value: Any) -> float:
        low, high = _LIMITS[key]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | np.integer | np.floating)
            or not low <= value <= high
        ):
            raise InputError(f"rig {self.name} has {key} {_brief(value)}", f"give a number from {low:g} to {high:g}")
        return float(value) + 0.0  # -0.0 becomes 0.0: equal rigs have equal texts

    @property
    def text(self) -> str:
        """What is stored of the rig: its name where it is a known one, JSON of all its numbers otherwise.

        ``rig(text)`` is the rig again, and equal rigs have equal texts.
        """
        if self.name in RIGS:
            return self.name
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def described(self) -> str:
        """Name and numbers in one line, for people."""
        azimuth, elevation = (" ".join(f"{value:g}" for value in six) for six in (self.azimuth, self.elevation))
        return f"{self.name} (azimuth {azimuth}, elevation {elevation}, FOV {self.fov:g}, distance {self.distance:.3g})"

    def w2c(self) -> NDArray[np.float32]:
        """float32 [6, 4, 4]."""
        return look_at_origin(self.azimuth, self.elevation, self.distance)

    def intrinsics(self, size: int) -> NDArray[np.float32]:
        """float32 [6, 3, 3] for square pictures of ``size`` pixels."""
        focal = 0.5 * size / np.tan(np.deg2rad(self.fov) / 2)
        k = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)
        return np.repeat(k[None], VIEWS, 0)

    def relative(self, reference: int) -> NDArray[np.float32]:
        """float32 [6, 4]: its cameras relative to view ``reference``, as the function ``relative`` gives them."""
        return relative(self.azimuth, self.elevation, self.distance, self.fov, reference)

    @property
    def around_a_seventh(self) -> bool:
        """Whether the rig stands around a picture that is none of its views, at azimuth 0: Zero123++'s do."""
        return self.name in ("zero123plus-v1.1", "zero123plus-v1.2")

    @property
    def even(self) -> bool:
        """Whether the rig looks the same from each of its views: a ring of equal steps at one elevation."""
        own = self.relative(0)[:, :2]
        turned = [np.roll(self.relative(view)[:, :2], -view, axis=0) for view in range(VIEWS)]
        return all(
            bool(np.all(angle_between(one[:, 0], own[:, 0]) <= _SYMMETRY) and np.all(np.abs(one[:, 1]) <= _SYMMETRY))
            for one in turned
        )

    def flip_order(self, reference: int = 0) -> tuple[int, ...] | None:
        """The order in which mirrored views fill the rig again, the mirror plane going through view ``reference``.

        The mirrored picture of view ``order[k]`` is what camera ``k`` sees of the mirrored world. None where the rig
        is not its own mirror image in that plane; ``ValueError`` for a view that is none.
        """
        left = list(range(VIEWS))
        order = []
        for azimuth, elevation in zip(self.azimuth, self.elevation, strict=True):
            opposite = 2 * self.azimuth[_view(reference)] - azimuth
            for view in left:
                off = max(float(angle_between(self.azimuth[view], opposite)), abs(self.elevation[view] - elevation))
                if off <= _SYMMETRY:
                    order.append(view)
                    left.remove(view)
                    break
            else:
                return None
        return tuple(order)

    def differs(self, azimuth: ArrayLike, elevation: ArrayLike, tolerance: float = _SAME_ANGLE) -> str | None:
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


_AROUND = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)
_BETWEEN = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)
_FILLED = float(0.5 / np.tan(np.deg2rad(15.0)))

RIGS.update(
    (known.name, known)
    for known in (
        Rig("mouse", _AROUND, (0.0,) * VIEWS, 30.0, _FILLED),
        Rig("zero123plus-v1.1", _BETWEEN, (30.0, -20.0) * 3, 30.0, _FILLED),
        Rig("zero123plus-v1.2", _BETWEEN, (20.0, -10.0) * 3, 30.0, _FILLED),
        Rig("facelift", (0.0, 45.0, 90.0, 180.0, 270.0, 315.0), (0.0,) * VIEWS, 50.0, 2.7),
    )
)


def rig(value: str | Mapping[str, Any]) -> Rig:
    """The rig that ``value`` says: a known name, a rig's ``text``, or {name, azimuth, elevation, fov, distance}.

    Raises ``InputError`` with the known names, or with what does not fit.
    """
    mend = f"choose {', '.join(sorted(RIGS))}, or give {{name, azimuth, elevation, fov, distance}}"
    if isinstance(value, str) and value in RIGS:
        return RIGS[value]
    content: Any = value
    if isinstance(value, str):
        try:
            content = json.loads(value)
        except (ValueError, RecursionError):
            content = None
    if not isinstance(content, Mapping):
        raise InputError(f"unknown rig {_brief(value)}", mend)
    keys = [field.name for field in fields(Rig)]
    if unknown := [key for key in content if key not in keys]:
        raise InputError(f"rig {_brief(content.get('name'))} has the unknown key {_brief(unknown[0])}", mend)
    if missing := [key for key in keys if key not in content]:
        raise InputError(f"rig {_brief(content.get('name'))} lacks {', '.join(missing)}", mend)
    return Rig(**{key: content[key] for key in keys})


def readable(text: str) -> str:
    """A rig's ``text`` as errors show it: the name of a known rig, all the numbers of another one."""
    if text in RIGS:
        return text
    try:
        return rig(text).described
    except InputError:
        return _brief(text)


def _brief(value: Any) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def slots(model: Rig, data: Rig, mapping: str | Sequence[int] | None) -> tuple[int, ...]:
    """Which view of ``data`` stands in each of the six slots of ``model``.

    ``mapping`` None: the rigs must agree. ``order``: view k in slot k, whatever its camera. ``nearest``: the
    permutation with the least sum of angles between viewing directions; of equals, the lexicographically first.
    Otherwise it is the permutation itself.

    Raises ``InputError`` where rigs that must agree do not, with both, and for a mapping that is none of these.
    """
    same = tuple(range(VIEWS))
    if mapping is None:
        agree = (
            model.differs(data.azimuth, data.elevation) is None
            and abs(model.fov - data.fov) <= _SAME_ANGLE
            and abs(model.distance - data.distance) <= _SAME_DISTANCE * model.distance
        )
        if not agree:
            raise InputError(
                f"the model's rig is {model.described}, the data's {data.described}",
                "set model.mapping=order (view k trains slot k), nearest, or a list of six views",
            )
        return same
    if mapping == "order":
        return same
    if mapping == "nearest":
        return _nearest(model, data)
    listed: tuple[Any, ...] = ()
    if isinstance(mapping, Sequence) and not isinstance(mapping, str):
        listed = tuple(mapping)
    if any(type(view) is not int for view in listed) or sorted(listed) != list(same):
        raise InputError(
            f"model.mapping is {_brief(mapping)}", "set order, nearest, or a list that has each of 0 to 5 once"
        )
    return listed


def _nearest(model: Rig, data: Rig) -> tuple[int, ...]:
    ours = _outward(model.azimuth, model.elevation)[:, None]
    theirs = _outward(data.azimuth, data.elevation)[None]
    sine = np.linalg.norm(np.cross(ours, theirs), axis=-1)
    apart = np.rad2deg(np.arctan2(sine, (ours * theirs).sum(-1)))  # [slot, view]
    orders = list(permutations(range(VIEWS)))
    totals = apart[np.arange(VIEWS), np.array(orders)].sum(-1)
    # Equal sums differ in their last bits by the order of summation.
    return orders[int(np.flatnonzero(totals <= totals.min() + 1e-6)[0])]
