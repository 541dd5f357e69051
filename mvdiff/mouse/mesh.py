"""Closed surfaces on grids: swept tubes and ellipsoids, and the triangle mesh they are gathered into."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Closed surfaces as grids of rings: N rings of M points each, any number of surfaces in front."""

    points: Floats
    """[..., N, M, 3]."""
    colours: Floats
    """RGB in 0..1, same shape."""
    occlusion: Floats
    """[..., N, M], 0 where light comes freely .. 1 where none does."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour at each vertex. They face outwards (counter-clockwise seen from outside)."""

    vertices: Floats
    """[V, 3] in world units, Z up."""
    normals: Floats
    """[V, 3] of unit length, outwards."""
    colours: Floats
    """[V, 3] RGB in 0..1."""
    occlusion: Floats
    """[V], 0 where light comes freely .. 1 where none does."""
    triangles: NDArray[np.int64]
    """[T, 3] vertex indices."""


def gathered(parts: Iterable[Part]) -> Mesh:
    """All parts in one mesh."""
    vertices, normals, colours, occlusion, triangles, start = [], [], [], [], [], 0
    for part in parts:
        rows, columns = part.points.shape[-3:-1]
        vertices.append(part.points.reshape(-1, 3))
        normals.append(grid_normals(part.points).reshape(-1, 3))
        colours.append(np.broadcast_to(part.colours, part.points.shape).reshape(-1, 3))
        occlusion.append(np.broadcast_to(part.occlusion, part.points.shape[:-1]).reshape(-1))
        for surface in range(vertices[-1].shape[0] // (rows * columns)):
            triangles.append(grid_triangles(rows, columns) + (start + surface * rows * columns))
        start += len(vertices[-1])
    return Mesh(*(np.concatenate(a) for a in (vertices, normals, colours, occlusion, triangles)))


@lru_cache(maxsize=64)
def grid_triangles(rows: int, columns: int) -> NDArray[np.int64]:
    """Triangles [2 (rows - 1) columns, 3] of a vertex grid whose columns close into rings."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    beside = (column + 1) % columns
    a, b = row * columns + column, row * columns + beside
    c, d = a + columns, b + columns
    return np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])


def unit(vectors: ArrayLike) -> Floats:
    """Vectors [..., 3] scaled to length one."""
    v = np.asarray(vectors, np.float64)
    length = np.sqrt(v[..., 0] ** 2 + v[..., 1] ** 2 + v[..., 2] ** 2)
    return v / np.maximum(length, 1e-12)[..., None]


def cross(a: Floats, b: Floats) -> Floats:
    """Cross product over the last axis, broadcasting (np.cross copies several times)."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def grid_normals(points: Floats) -> Floats:
    """Outward normals [..., N, M, 3] of ring grids [..., N, M, 3] as ``sweep`` makes them."""
    padded = np.concatenate([points[..., :1, :, :], points, points[..., -1:, :, :]], -3)
    along = padded[..., 2:, :, :] - padded[..., :-2, :, :]
    around = np.roll(points, -1, -2) - np.roll(points, 1, -2)
    return unit(cross(around, along))


def angles(columns: int) -> Floats:
    """Where the columns of a ring stand, in radians [M]: 0 is the ring's side axis, a quarter turn its up axis."""
    return np.arange(columns, dtype=np.float64) * (2 * np.pi / columns)


def sweep(centre: Floats, side: Floats, up: Floats, columns: int) -> Floats:
    """A tube's grid [..., N, M, 3]: an ellipse around each centre.

    ``centre``, ``side``, ``up`` are [..., N, 3]; the last two hold direction and radius at once. ``side`` x ``up`` has
    to point onwards along the tube for it to face outwards. Radii of almost nothing at both ends close it.
    """
    t = angles(columns)
    return (
        centre[..., :, None, :] + np.cos(t)[:, None] * side[..., :, None, :] + np.sin(t)[:, None] * up[..., :, None, :]
    )


def ellipsoid(centre: Floats, along: Floats, side: Floats, rows: int, columns: int, thick: float) -> Floats:
    """Grid [N, M, 3] of an ellipsoid: half axes ``along`` and ``side`` [3], and one of length ``thick`` across both."""
    t = np.linspace(0, np.pi, rows)[:, None]
    ring = np.maximum(np.sin(t), 1e-5)
    up = cross(unit(along), unit(side)) * thick
    return sweep(centre - np.cos(t) * along, side * ring, up * ring, columns)


def limb(joints: Floats, radii: Floats, reference: Floats, flat: float, rows: int, columns: int) -> Floats:
    """A rounded tube [..., N, M, 3] along ``joints`` [..., J, 3], radius ``radii`` [..., J] at each of them.

    ``reference`` [..., 3] is a direction roughly across the tube; the radius along it is multiplied by ``flat``.
    """
    t = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, rows))
    knots = np.linspace(0, 1, radii.shape[-1])
    centre, radius = spline(knots, joints, t), spline(knots, radii[..., None], t)[..., 0]
    # round off both ends: over the last part of the tube the radius follows a quarter of an ellipse
    end = 0.16
    edge = np.clip(np.minimum(t, 1 - t) / end, 0, 1)
    radius = np.maximum(radius * np.sqrt(np.maximum(1 - (1 - edge) ** 2, 0)), 1e-5)
    forward = unit(tangents(centre))
    reference = np.broadcast_to(reference[..., None, :], forward.shape)
    side = unit(reference - np.sum(reference * forward, -1, keepdims=True) * forward)
    up = cross(forward, side)
    return sweep(centre, side * (radius * flat)[..., None], up * radius[..., None], columns)


def tangents(centre: Floats) -> Floats:
    """Differences between the neighbours of each point of a line [..., N, 3]."""
    padded = np.concatenate([centre[..., :1, :], centre, centre[..., -1:, :]], -2)
    return padded[..., 2:, :] - padded[..., :-2, :]


def spline(knots: Floats, values: Floats, at: Floats) -> Floats:
    """Cubic through ``values`` [..., K, D] at ``knots`` [K] with limited slopes (no overshoot), read ``at`` [N].

    The slopes are Fritsch and Butland's: a weighted harmonic mean of the neighbouring secants, zero at a turning point.
    """
    step = np.diff(knots)[:, None]
    secant = np.diff(values, axis=-2) / step
    before, after = secant[..., :-1, :], secant[..., 1:, :]
    w1, w2 = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
    turning = before * after <= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(turning, 0.0, (w1 + w2) / (w1 / before + w2 / after))
    slope = np.concatenate([secant[..., :1, :], inner, secant[..., -1:, :]], -2)
    i = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    h = step[i]
    u = ((at - knots[i]) / h[:, 0])[:, None]
    y0, y1, s0, s1 = values[..., i, :], values[..., i + 1, :], slope[..., i, :], slope[..., i + 1, :]
    return (
        y0 * (2 * u**3 - 3 * u**2 + 1)
        + s0 * h * (u**3 - 2 * u**2 + u)
        + y1 * (3 * u**2 - 2 * u**3)
        + s1 * h * (u**3 - u**2)
    )
