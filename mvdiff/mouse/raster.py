"""A z-buffered triangle rasteriser in numpy: coverage and colour of a closed mesh seen by a camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse.mesh import Mesh

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_DEPTH_STEPS = float(2**30)


@dataclass(frozen=True)
class Corners:
    """Triangles that face the camera, corners sorted downwards; x, y in samples, z is inverse depth. All [T]."""

    x: tuple[Floats, Floats, Floats]
    y: tuple[Floats, Floats, Floats]
    z: tuple[Floats, Floats, Floats]
    vertex: tuple[Integers, Integers, Integers]


@dataclass(frozen=True)
class Spans:
    """Runs of sample points inside triangles, one row each; all [S]."""

    triangle: Integers
    row: Integers
    first: Integers
    """First column."""
    count: Integers


def rasterise(
    mesh: Mesh, w2c: NDArray[np.float32], intrinsics: NDArray[np.float32], size: int, samples: int
) -> tuple[tuple[slice, slice], Floats, Floats]:
    """Draw ``mesh`` for one camera, ``size`` pixels square with ``samples`` x ``samples`` sample points each.

    Returns the box of pixels (rows, columns) around what is seen, and in it the coverage [h, w] in 0..1 and the colour
    [h, w, 3] already multiplied by it. Back faces are left out, so the mesh has to be made of closed surfaces that face
    outwards. Colour is interpolated linearly in the picture: keep triangles small.
    """
    corners = _facing(mesh, w2c, intrinsics, samples)
    spans = _spans(corners, size * samples)
    if not len(spans.row):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0)), np.zeros((0, 0, 3))
    top, left = int(spans.row.min()) // samples, int(spans.first.min()) // samples
    bottom = int(spans.row.max()) // samples + 1
    right = int((spans.first + spans.count).max() - 1) // samples + 1
    height, width = bottom - top, right - left

    place, span, along = _seen(corners, spans, (top * samples, left * samples), (height * samples, width * samples))
    row = place // (width * samples)
    pixel = row // samples * width + (place - row * (width * samples)) // samples
    scale = np.float64(1 / samples**2)
    coverage = np.bincount(pixel, minlength=height * width).reshape(height, width) * scale
    colour = np.empty((height, width, 3))
    for channel in range(3):
        a, b, c = (mesh.colours[v, channel] for v in corners.vertex)
        start, step = _along(corners, spans, (a, b, c))
        value = np.clip(start[span] + step[span] * along, 0.0, 1.0)
        colour[..., channel] = np.bincount(pixel, value, height * width).reshape(height, width) * scale
    return (slice(top, bottom), slice(left, right)), coverage, colour


def _facing(mesh: Mesh, w2c: NDArray[np.float32], intrinsics: NDArray[np.float32], samples: int) -> Corners:
    """Project, drop what faces away or is too flat to hold a sample, sort each triangle's corners downwards."""
    m, k = w2c.astype(float), intrinsics.astype(float)
    px, py, pz = (mesh.vertices[:, i] for i in range(3))
    x, y, z = (m[i, 0] * px + m[i, 1] * py + m[i, 2] * pz + m[i, 3] for i in range(3))
    nearness = 1.0 / z
    x = (k[0, 0] * x * nearness + k[0, 2]) * samples
    y = (k[1, 1] * y * nearness + k[1, 2]) * samples
    a, b, c = (mesh.triangles[:, i] for i in range(3))
    # y points down, so a face seen from outside turns clockwise and its area comes out negative
    area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
    seen = area < -1e-9
    a, b, c = a[seen], b[seen], c[seen]
    for _ in range(2):
        down = y[a] <= y[b]
        a, b = np.where(down, a, b), np.where(down, b, a)
        down = y[b] <= y[c]
        b, c = np.where(down, b, c), np.where(down, c, b)
    holds = np.ceil(y[c] - 0.5) > np.ceil(y[a] - 0.5)
    a, b, c = a[holds], b[holds], c[holds]
    return Corners((x[a], x[b], x[c]), (y[a], y[b], y[c]), (nearness[a], nearness[b], nearness[c]), (a, b, c))


def _spans(corners: Corners, across: int) -> Spans:
    """The sample points that lie inside each triangle, row by row.

    An edge shared by two triangles is evaluated by the same expression on the same numbers in both, so that no sample
    between them is lost or drawn twice.
    """
    (xa, xb, xc), (ya, yb, yc) = corners.x, corners.y
    top = np.maximum(np.ceil(ya - 0.5), 0).astype(np.int64)
    rows = np.maximum(np.minimum(np.ceil(yc - 0.5), across).astype(np.int64) - top, 0)
    triangle = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(triangle)) + np.repeat(top - (np.cumsum(rows) - rows), rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        ab, bc, ac = (xb - xa) / (yb - ya), (xc - xb) / (yc - yb), (xc - xa) / (yc - ya)
    y = row + 0.5
    upper = y < np.repeat(yb, rows)
    long = np.repeat(xa, rows) + (y - np.repeat(ya, rows)) * np.repeat(ac, rows)
    start_x = np.where(upper, np.repeat(xa, rows), np.repeat(xb, rows))
    start_y = np.where(upper, np.repeat(ya, rows), np.repeat(yb, rows))
    short = start_x + (y - start_y) * np.where(upper, np.repeat(ab, rows), np.repeat(bc, rows))
    first = np.clip(np.ceil(np.minimum(long, short) - 0.5), 0, across).astype(np.int64)
    count = np.clip(np.ceil(np.maximum(long, short) - 0.5), 0, across).astype(np.int64) - first
    some = np.flatnonzero(count > 0)
    return Spans(triangle[some], row[some], first[some], count[some])


def _along(corners: Corners, spans: Spans, value: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats]:
    """A value given at the corners: what it is at each span's first sample, and its change from one to the next."""
    (xa, xb, xc), (ya, yb, yc), (a, b, c) = corners.x, corners.y, value
    bx, by, cx, cy = xb - xa, yb - ya, xc - xa, yc - ya
    area = bx * cy - cx * by
    step_x, step_y = ((b - a) * cy - (c - a) * by) / area, ((c - a) * bx - (b - a) * cx) / area
    origin = a + step_x * (0.5 - xa) + step_y * (0.5 - ya)
    t = spans.triangle
    step = step_x[t]
    return origin[t] + step * spans.first + step_y[t] * spans.row, step


def _seen(
    corners: Corners, spans: Spans, corner: tuple[int, int], shape: tuple[int, int]
) -> tuple[Integers, Integers, Integers]:
    """Which surface each sample point of a box sees: of all that cover it, the one with the largest inverse depth.

    The box has its first sample at ``corner`` and is of ``shape``. Returns the covered samples (number in the box, row
    by row), the span seen there and how many samples along it.
    """
    span = np.repeat(np.arange(len(spans.count)), spans.count)
    along = np.arange(len(span)) - np.repeat(np.cumsum(spans.count) - spans.count, spans.count)
    start, step = _along(corners, spans, corners.z)
    low, high = min(z.min() for z in corners.z), max(z.max() for z in corners.z)
    scale = _DEPTH_STEPS / max(high - low, 1e-12)
    depth = ((start - low) * scale + 1)[span] + (step * scale)[span] * along
    # depth in the high half, the fragment's number in the low half: one maximum decides both
    key = np.maximum(depth, 1).astype(np.int64)
    key <<= 32
    key |= np.arange(len(span))
    place = ((spans.row - corner[0]) * shape[1] + spans.first - corner[1])[span] + along
    buffer = np.zeros(shape[0] * shape[1], np.int64)
    np.maximum.at(buffer, place, key)
    covered = np.flatnonzero(buffer)
    winner = buffer[covered] & 0xFFFFFFFF
    return covered, span[winner], along[winner]
