"""Do six views show one and the same body? Answered from silhouettes, colours and known cameras, without a network."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvdiff.evaluate.colour import lab
from mvdiff.evaluate.foreground import foreground
from mvdiff.rig import VIEWS, look_at_origin

_GRID = 160
"""Rays are cast through a grid of about this many pixels a side."""
_EXTENT = 1.5
"""Rays are searched this many half-widths of the frame before and behind the origin's depth: the frame's diagonal."""
_MOST_RAYS = 40_000
"""Where masks hold more grid pixels than this (a quarter of every frame), the grid is made coarser."""
_RAYS_AT_ONCE = 4096
"""Bounds the memory where a mask fills the frame."""


def view_consistency(
    views: NDArray[np.uint8],
    *,
    azimuth: ArrayLike,
    elevation: ArrayLike,
    fov: float,
    alpha: NDArray[np.uint8] | None = None,
) -> dict[str, float]:
    """Consistency of ``views`` uint8 [6, H, H, 3] on white, seen from ``azimuth`` [6], ``elevation`` [6] (degrees).

    The cameras look at the origin with a field of view of ``fov`` degrees, all from the same distance (which one is
    only a matter of the world's unit). ``alpha`` uint8 [6, H, H] gives the masks where it is known; otherwise they
    come from the distance from white (``mvdiff.evaluate.foreground``).

    Returns what ``consistency`` returns. Raises ``ValueError`` for wrong shapes.
    """
    if views.ndim != 4 or views.shape[0] != VIEWS or views.shape[1] != views.shape[2] or views.shape[3] != 3:
        raise ValueError(f"views are {list(views.shape)}, not [6, H, H, 3]")
    if alpha is not None and alpha.shape != views.shape[:3]:
        raise ValueError(f"alpha is {list(alpha.shape)} beside views of {list(views.shape)}")
    size = views.shape[1]
    half = np.tan(np.deg2rad(fov) / 2)
    w2c = look_at_origin(np.broadcast_to(azimuth, VIEWS), np.broadcast_to(elevation, VIEWS), 0.5 / half)
    focal = 0.5 * size / half
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    masks = foreground(views) if alpha is None else alpha > 127
    return consistency(views, masks, w2c, np.repeat(intrinsics[None], VIEWS, 0))


def consistency(
    views: NDArray[np.uint8], masks: NDArray[np.bool_], w2c: NDArray, intrinsics: NDArray
) -> dict[str, float]:
    """Consistency of ``views`` uint8 [6, H, W, 3] with ``masks`` bool [6, H, W] under ``w2c`` [6, 4, 4] (OpenCV axes)
    and ``intrinsics`` [6, 3, 3] (pixels).

    silhouette        IoU of each mask with the reprojected visual hull of all six, mean over views. 1 for one body
                      seen by the stated cameras; 0 where a view is empty. It says nothing about which body.
    silhouette_worst  the same for the worst view
    colour            mean L*a*b* distance between the colours that two views show at the same point of the hull's
                      surface. The hull is not the body (hollows are filled), so compare it with the truth's figure.
    colour_overlap    share of the surface points seen by a second view; with few of them ``colour`` means little

    ``colour`` is not a number where no point is seen twice. Silhouette coherence: Hernandez, Schmitt and Cipolla 2007
    (Silhouette coherence for camera calibration under circular motion); visual hull: Laurentini 1994.
    """
    cameras = _Cameras(masks, np.asarray(w2c, np.float64), np.asarray(intrinsics, np.float64))
    surface = _first_hits(cameras)
    total = masks[:, cameras.rows][:, :, cameras.columns].sum((1, 2))
    explained = np.bincount(surface.view, minlength=VIEWS)
    # The reprojected hull lies within each mask by construction, so the share explained is the IoU.
    silhouette = np.where(masks.any((1, 2)).all(), explained / np.maximum(total, 1), 0.0)
    colour, overlap = _colour_agreement(views, cameras, surface)
    return {
        "silhouette": float(silhouette.mean()),
        "silhouette_worst": float(silhouette.min()),
        "colour": colour,
        "colour_overlap": overlap,
    }


class _Cameras:
    """Six calibrated masks and the grid of pixels through which rays are cast."""

    def __init__(self, masks: NDArray[np.bool_], w2c: NDArray[np.float64], intrinsics: NDArray[np.float64]) -> None:
        height, width = masks.shape[1:]
        self.masks = masks
        self.step = max(1, round(max(height, width) / _GRID))
        while masks.sum() > _MOST_RAYS * self.step**2:
            self.step += 1
        self.rows = np.arange(self.step // 2, height, self.step)
        self.columns = np.arange(self.step // 2, width, self.step)
        self.projection = intrinsics @ w2c[:, :3]  # [6, 3, 4]
        rotation, translation = w2c[:, :3, :3], w2c[:, :3, 3]
        self.centre = -np.einsum("kji,kj->ki", rotation, translation)  # [6, 3]
        self.to_world = np.einsum("kji,kjl->kil", rotation, np.linalg.inv(intrinsics))  # pixel -> direction of depth 1
        self.depth = translation[:, 2]
        half_width = self.depth * width / 2 / intrinsics[:, 0, 0]
        spacing = self.step * self.depth / intrinsics[:, 0, 0]
        self.spacing = float(spacing.mean())
        self.samples = int(np.ceil(2 * _EXTENT * half_width.mean() / self.spacing))

    def pixels(self, x: NDArray[np.floating], y: NDArray[np.floating], z: NDArray[np.floating]) -> NDArray[np.int32]:
        """Flat pixel numbers of homogeneous image points ``x``, ``y``, ``z``; -1 outside the frame."""
        height, width = self.masks.shape[1:]
        inside = (z > 0) & (x >= 0) & (x < width * z) & (y >= 0) & (y < height * z)
        nearness = np.divide(inside, z, out=np.zeros_like(z), where=z > 0)
        # Rounding can lift a point just inside the frame's edge onto it.
        row = np.minimum((y * nearness).astype(np.int32), height - 1)
        column = np.minimum((x * nearness).astype(np.int32), width - 1)
        return np.where(inside, row * width + column, -1)


@dataclass(frozen=True)
class _Surface:
    """Where the rays through the masks first meet the visual hull."""

    view: NDArray[np.intp]
    """View each ray belongs to [n]."""
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    """Position of each ray in the grid [n]."""
    points: NDArray[np.float32]
    """World [3, n]."""
    depth: NDArray[np.float32]
    """Depth maps on the grid [6, rows, columns], infinite where no ray meets the hull."""


def _first_hits(cameras: _Cameras) -> _Surface:
    """March along every ray through a mask's pixels and find the first point inside all the other masks."""
    parts = []
    depth_maps = np.full((VIEWS, len(cameras.rows), len(cameras.columns)), np.inf, np.float32)
    for k in range(VIEWS):
        rows, columns = np.nonzero(cameras.masks[k][np.ix_(cameras.rows, cameras.columns)])
        for start in range(0, len(rows), _RAYS_AT_ONCE):
            row, column = rows[start : start + _RAYS_AT_ONCE], columns[start : start + _RAYS_AT_ONCE]
            ray, depth, points = _march(cameras, k, row, column)
            row, column = row[ray], column[ray]
            depth_maps[k, row, column] = depth
            parts.append((np.full(len(ray), k), row, column, points))
    if not parts:
        none = np.zeros(0, np.intp)
        return _Surface(none, none, none, np.zeros((3, 0), np.float32), depth_maps)
    view, row, column, points = (np.concatenate(values, -1) for values in zip(*parts, strict=True))
    return _Surface(view, row, column, points, depth_maps)


def _march(
    cameras: _Cameras, k: int, row: NDArray[np.intp], column: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """March along view ``k``'s rays through grid positions ``row``, ``column`` [n].

    Returns which rays meet the hull [m], at what depth [m] and world point [3, m].
    """
    pixel = np.stack([cameras.columns[column] + 0.5, cameras.rows[row] + 0.5, np.ones(len(row))])
    centre = cameras.centre[k]
    direction = cameras.to_world[k] @ pixel  # [3, n]
    steps = np.arange(cameras.samples) - (cameras.samples - 1) / 2
    depth = (cameras.depth[k] + steps * cameras.spacing).astype(np.float32)
    ray, sample = (
        np.arange(len(row))[:, None],
        np.arange(len(depth))[None],
    )  # all pairs, until the first mask has chosen
    # Views at a right angle reject most points, the opposite one almost none: the order is only a matter of speed.
    sideways = np.abs(cameras.to_world[:, :, 2] @ cameras.to_world[k, :, 2])
    for j in (int(j) for j in np.argsort(sideways) if j != k):
        origin = (cameras.projection[j] @ np.append(centre, 1.0)).astype(np.float32)
        along = (cameras.projection[j, :, :3] @ direction).astype(np.float32)
        x, y, z = (o + a[ray] * depth[sample] for o, a in zip(origin, along, strict=True))
        pixels = cameras.pixels(x, y, z)
        alive = (pixels >= 0) & cameras.masks[j].reshape(-1)[pixels]
        if alive.ndim == 2:
            ray, sample = np.nonzero(alive)
        else:
            ray, sample = ray[alive], sample[alive]
    ray, first = np.unique(ray, return_index=True)
    hit = depth[sample[first]]
    return ray, hit, (centre[:, None] + direction[:, ray] * hit).astype(np.float32)


def _colour_agreement(views: NDArray[np.uint8], cameras: _Cameras, surface: _Surface) -> tuple[float, float]:
    """Mean L*a*b* distance between views at shared surface points, and the share of points seen by a second view."""
    if surface.points.shape[1] == 0:
        return float("nan"), 0.0
    small = _reduced(views, cameras.step)  # [6, rows, columns, 3]
    colours = lab(small)
    width = cameras.masks.shape[2]
    own = colours[surface.view, surface.row, surface.column]
    total, pairs = 0.0, 0
    shared = np.zeros(len(surface.view), bool)
    for j in range(VIEWS):
        projected = cameras.projection[j, :, :3] @ surface.points + cameras.projection[j, :, 3:]
        pixels, depth = cameras.pixels(*projected), projected[2]
        row = np.minimum(pixels // width // cameras.step, len(cameras.rows) - 1)
        column = np.minimum(pixels % width // cameras.step, len(cameras.columns) - 1)
        seen = (
            (pixels >= 0) & (surface.view != j) & (np.abs(depth - surface.depth[j, row, column]) < 2 * cameras.spacing)
        )
        shared |= seen
        total += float(np.linalg.norm(own[seen] - colours[j, row[seen], column[seen]], axis=-1).sum(dtype=np.float64))
        pairs += int(seen.sum())
    return (total / pairs if pairs else float("nan")), float(shared.mean())


def _reduced(views: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Mean of ``step`` x ``step`` pixels: uint8 [6, ceil(H / step), ceil(W / step), 3]."""
    height, width = (-(-n // step) * step for n in views.shape[1:3])
    padded = np.pad(views, ((0, 0), (0, height - views.shape[1]), (0, width - views.shape[2]), (0, 0)), mode="edge")
    blocks = padded.reshape(VIEWS, height // step, step, width // step, step, 3)
    return (blocks.sum(4, np.uint32).sum(2) / step**2).round().astype(np.uint8)
