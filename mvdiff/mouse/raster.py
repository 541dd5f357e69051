"""A z-buffered triangle rasteriser in numpy: coverage and colour of a closed mesh seen by a camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse.mesh import Mesh

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_DEPTH_STEPS = float(2**31)


@dataclass(frozen=True)
class Corners:
    """Triangles that face the camera, corners sorted downwards; x, y in samples, z is inverse depth. All [T]."""

    x: tuple[Floats, Floats, Floats]
    y: tuple[Floats, Floats, Floats]
    z: tuple[Floats, Floats, Floats]
    vertex: tuple[Integers, Integers, Integers]


def rasterise(
    mesh: Mesh, w2c: NDArray[np.float32], intrinsics: NDArray[np.float32], size: int, samples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw ``mesh`` for one camera with ``samples`` x ``samples`` sample points a pixel.

    Returns the coverage [size, size] in 0..1 and the colour [size, size, 3] already multiplied by it. Back faces are
    left out, so the mesh has to be made of closed surfaces that face outwards. Colour is interpolated linearly in the
    picture: keep triangles small.
    """
    corners = _facing(mesh, w2c, intrinsics, samples)
    across = size * samples
    triangle, row, first, count = _spans(corners, across)
    span, column = _expand(first, count)
    triangle, row = triangle[span], row[span]
    dx, dy = column + 0.5 - corners.x[0][triangle], row + 0.5 - corners.y[0][triangle]
    slope_x, slope_y = _gradient(corners, corners.z)
    depth = corners.z[0][triangle] + slope_x[triangle] * dx + slope_y[triangle] * dy

    winner = _nearest(row, column, depth)
    triangle, dx, dy = triangle[winner], dx[winner], dy[winner]
    pixel = (row[winner] // samples) * size + column[winner] // samples
    coverage = np.bincount(pixel, minlength=size * size) / samples**2
    colour = np.empty((size * size, 3))
    for channel in range(3):
        a, b, c = (mesh.colours[v, channel] for v in corners.vertex)
        slope_x, slope_y = _gradient(corners, (a, b, c))
        value = np.clip(a[triangle] + slope_x[triangle] * dx + slope_y[triangle] * dy, 0.0, 1.0)
        colour[:, channel] = np.bincount(pixel, value, minlength=size * size) / samples**2
    return coverage.reshape(size, size), colour.reshape(size, size, 3)


def _facing(mesh: Mesh, w2c: NDArray[np.float32], intrinsics: NDArray[np.float32], samples: int) -> Corners:
    """Project, drop what faces away or is too thin to hold a sample, sort each triangle's corners downwards."""
    m, k = w2c.astype(float), intrinsics.astype(float)
    px, py, pz = (mesh.vertices[:, i] for i in range(3))
    x, y, z = (m[i, 0] * px + m[i, 1] * py + m[i, 2] * pz + m[i, 3] for i in range(3))
    nearness = 1.0 / z
    x = (k[0, 0] * x * nearness + k[0, 2]) * samples
    y = (k[1, 1] * y * nearness + k[1, 2]) * samples
    a, b, c = (mesh.triangles[:, i] for i in range(3))
    # y points down, so a face seen from outside turns clockwise and its area comes out negative
    area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
    a, b, c = (v[area < -1e-9] for v in (a, b, c))
    for _ in range(2):
        a, b = np.where(y[a] <= y[b], a, b), np.where(y[a] <= y[b], b, a)
        b, c = np.where(y[b] <= y[c], b, c), np.where(y[b] <= y[c], c, b)
    holds = np.ceil(y[c] - 0.5) > np.ceil(y[a] - 0.5)
    a, b, c = a[holds], b[holds], c[holds]
    return Corners((x[a], x[b], x[c]), (y[a], y[b], y[c]), (nearness[a], nearness[b], nearness[c]), (a, b, c))


def _spans(corners: Corners, across: int) -> tuple[Integers, Integers, Integers, Integers]:
    """Runs of sample points inside triangles: triangle, row, first column, count; all [S].

    An edge shared by two triangles is evaluated by the same expression on the same numbers in both, so that no sample
    between them is lost or drawn twice.
    """
    (xa, xb, xc), (ya, yb, yc) = corners.x, corners.y
    top = np.maximum(np.ceil(ya - 0.5), 0).astype(np.int64)
    rows = np.minimum(np.ceil(yc - 0.5), across).astype(np.int64) - top
    triangle, row = _expand(top, np.maximum(rows, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ab, bc, ac = (xb - xa) / (yb - ya), (xc - xb) / (yc - yb), (xc - xa) / (yc - ya)
    y = row + 0.5
    upper = y < yb[triangle]
    long = xa[triangle] + (y - ya[triangle]) * ac[triangle]
    start_x, start_y = np.where(upper, xa[triangle], xb[triangle]), np.where(upper, ya[triangle], yb[triangle])
    short = start_x + (y - start_y) * np.where(upper, ab[triangle], bc[triangle])
    first = np.clip(np.ceil(np.minimum(long, short) - 0.5), 0, across).astype(np.int64)
    count = np.clip(np.ceil(np.maximum(long, short) - 0.5), 0, across).astype(np.int64) - first
    some = count > 0
    return triangle[some], row[some], first[some], count[some]


def _expand(first: Integers, count: Integers) -> tuple[Integers, Integers]:
    """For each i, the numbers first[i] .. first[i] + count[i] - 1: which i, and the number."""
    which = np.repeat(np.arange(len(count)), count)
    before = np.cumsum(count) - count
    return which, np.arange(len(which)) + (first - before)[which]


def _gradient(corners: Corners, value: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats]:
    """Change of a value given at the corners per sample across and down, [T] each."""
    (xa, xb, xc), (ya, yb, yc), (a, b, c) = corners.x, corners.y, value
    bx, by, cx, cy = xb - xa, yb - ya, xc - xa, yc - ya
    area = bx * cy - cx * by
    return ((b - a) * cy - (c - a) * by) / area, ((c - a) * bx - (b - a) * cx) / area


def _nearest(row: Integers, column: Integers, nearness: Floats) -> Integers:
    """Indices of the fragments that are seen: of those at one sample point, the one with the largest nearness."""
    if not len(row):
        return np.zeros(0, np.int64)
    top, left = row.min(), column.min()
    width = column.max() - left + 1
    buffer = np.zeros((row.max() - top + 1) * width, np.uint64)
    # depth in the high half, the fragment's number in the low half: one maximum decides both
    low, high = nearness.min(), nearness.max()
    depth = ((nearness - low) * (_DEPTH_STEPS / max(high - low, 1e-12))).astype(np.uint64) + np.uint64(1)
    key = (depth << np.uint64(32)) | np.arange(len(row), dtype=np.uint64)
    np.maximum.at(buffer, (row - top) * width + (column - left), key)
    return (buffer[buffer > 0] & np.uint64(0xFFFFFFFF)).astype(np.int64)
