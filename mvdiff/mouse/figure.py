"""The whole animal as one mesh: trunk, tail, head and legs put together."""

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse import anatomy
from mvdiff.mouse.anatomy import Build, Outline, smoothstep
from mvdiff.mouse.coat import Coat, fur
from mvdiff.mouse.head import head
from mvdiff.mouse.legs import Stance, legs, muscles, stand
from mvdiff.mouse.mesh import Mesh, Part, angles, cross, gathered, sweep, tangents, unit
from mvdiff.mouse.pose import Pose
from mvdiff.mouse.spine import Spine, posed

Floats = NDArray[np.float64]

_TRUNK_GRID = (100, 60)
_TAIL_GRID = (64, 12)
_TAIL_LENGTH = 0.64
_TAIL_RADII = (0.0245, 0.0065)
_TAIL_REST = 0.030


def figure(build: Build, pose: Pose, coat: Coat) -> Mesh:
    """Mesh of the animal in trunk lengths: it faces +X, Z is up, its feet stand at height 0; not lit yet."""
    outline = anatomy.outline(build, _TRUNK_GRID[0])
    spine = posed(build, outline, pose)
    stance = stand(spine, build, pose)
    return gathered(
        [
            _trunk(spine, outline, stance, coat),
            *head(spine, outline, build, coat),
            *legs(stance, build, coat),
            _tail(spine, build, pose, coat),
        ]
    )


def _trunk(spine: Spine, outline: Outline, stance: Stance, coat: Coat) -> Part:
    """From nose to rump, with the muscles of haunches and shoulders under the skin; column 0 is the animal's right."""
    columns = _TRUNK_GRID[1]
    across, up = np.cos(angles(columns)), np.sin(angles(columns))
    height = np.where(up > 0, outline.above[:, None], outline.below[:, None])  # [N, M]
    points = (
        spine.centre[:, None]
        - (outline.width[:, None] * across)[..., None] * spine.left[:, None]
        + (height * up)[..., None] * spine.up[:, None]
    )
    points = points + muscles(points, stance)
    at = outline.at[:, None]
    colours = fur(coat, at, across, up)
    bare = smoothstep(0.030, 0.004, at)[..., None]
    colours = colours * (1 - bare) + (0.55 * coat.skin + 0.45 * coat.belly) * bare
    mouth = smoothstep(0.05, 0.03, np.abs(at - 0.045)) * smoothstep(-0.75, -0.9, up)
    chin = smoothstep(anatomy.SKULL, anatomy.NECK, at) * smoothstep(0.0, -0.9, up)
    return Part(points, colours, 0.18 * chin + 0.15 * mouth)


def _tail(spine: Spine, build: Build, pose: Pose, coat: Coat) -> Part:
    """From the rump down to just above the ground, then along it, the tip lifted or not."""
    rows, columns = _TAIL_GRID
    t = np.linspace(0, 1, rows)
    frame = spine.frame(anatomy.TAIL_BASE)
    yaw = np.deg2rad(pose.tail_yaw + pose.tail_curl * t + pose.tail_wave * np.sin(2 * np.pi * t))
    length = _TAIL_LENGTH * build.tail / (rows - 1)
    back, right = -frame.forward, -frame.left
    step = length * (np.cos(yaw)[:, None] * back + np.sin(yaw)[:, None] * right)
    centre = frame.origin + np.cumsum(step, 0) - step
    centre[:, 2] = (
        _TAIL_REST + (frame.origin[2] - 0.012 - _TAIL_REST) * np.exp(-((t / 0.24) ** 2)) + pose.tail_lift * t**2
    )
    radius = _TAIL_RADII[0] + (_TAIL_RADII[1] - _TAIL_RADII[0]) * t**0.75
    radius = radius * np.sqrt(np.clip((1 - t) / 0.03, 1e-6, 1))
    forward = unit(tangents(centre))
    side = unit(cross(np.array([0.0, 0.0, 1.0]), forward))
    points = sweep(centre, side * radius[:, None], cross(forward, side) * radius[:, None], columns)
    furred = smoothstep(0.09, 0.0, t)[:, None, None]
    colours = coat.skin * (0.96 - 0.10 * t)[:, None, None] * (1 - furred) + coat.back * furred
    return Part(points, np.broadcast_to(colours, points.shape), np.zeros(points.shape[:-1]))
