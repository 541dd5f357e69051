"""Ears, eyes and nose, set on the trunk's front end."""

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse import anatomy
from mvdiff.mouse.anatomy import Build, Outline, smoothstep
from mvdiff.mouse.coat import Coat, fur
from mvdiff.mouse.mesh import Part, angles, cross, ellipsoid, unit
from mvdiff.mouse.spine import Spine

Floats = NDArray[np.float64]

_EAR_GRID = (19, 36)
_BALL_GRID = (15, 18)


def head(spine: Spine, outline: Outline, build: Build, coat: Coat) -> list[Part]:
    """Two ears, two eyes, a nose."""
    parts = [_nose(spine, coat)]
    for left in (-1.0, 1.0):
        parts += [_eye(spine, outline, coat, left), _ear(spine, outline, build, coat, left)]
    return parts


def _section(outline: Outline, at: float) -> tuple[float, float]:
    """Half width and height above the centre line at ``at``."""
    i = int(np.searchsorted(outline.at, at))
    return float(outline.width[i]), float(outline.above[i])


def _nose(spine: Spine, coat: Coat) -> Part:
    frame = spine.frame(0.008)
    points = ellipsoid(frame.point(0.006, 0, 0.004), 0.013 * frame.forward, 0.017 * frame.left, *_BALL_GRID, 0.014)
    return Part(points, np.broadcast_to(coat.skin * 0.92, points.shape), np.zeros(points.shape[:-1]))


def _eye(spine: Spine, outline: Outline, coat: Coat, left: float) -> Part:
    """A dark ball with a glint towards the upper front, painted on so that every view sees it at the same place."""
    width, above = _section(outline, anatomy.EYES)
    frame, radius = spine.frame(anatomy.EYES), 0.024
    outward = unit(frame.direction(0.35, left, 0.38))
    centre = frame.point(0, left * width * 0.84, above * 0.50) - 0.002 * outward
    points = ellipsoid(centre, radius * outward, radius * frame.up, *_BALL_GRID, radius)
    gaze = unit(frame.direction(0.30, left, 0.75))
    towards = np.sum((points - centre) * gaze, -1) / radius
    glint = smoothstep(0.90, 0.97, towards)[..., None]
    colours = coat.eyes * (1 - glint) + np.array([0.86, 0.88, 0.92]) * glint
    return Part(points, colours, np.zeros(points.shape[:-1]))


def _ear(spine: Spine, outline: Outline, build: Build, coat: Coat, left: float) -> Part:
    """A thin round dish, hollow towards the front and the side; skin inside, fur outside."""
    width, above = _section(outline, anatomy.EARS)
    frame, radius = spine.frame(anatomy.EARS), 0.074 * build.ears
    tall = unit(frame.direction(-0.22, 0.62 * left, 0.85))
    facing = frame.direction(0.80, 0.62 * left, 0.10)
    facing = unit(facing - np.sum(facing * tall) * tall)
    centre = frame.point(0, left * width * 0.62, above * 0.66) + 0.80 * radius * tall
    side = cross(facing, tall)
    points = ellipsoid(centre, 1.08 * radius * tall, radius * side, *_EAR_GRID, 0.010)
    along = np.sum((points - centre) * tall, -1) / (1.08 * radius)
    beside = np.sum((points - centre) * side, -1) / radius
    distance = np.sqrt(along**2 + beside**2)
    hollow = np.maximum(1 - distance**2, 0)
    points = points - (0.032 * build.ears * hollow)[..., None] * facing
    front = smoothstep(-0.15, 0.15, np.sin(angles(_EAR_GRID[1])))[None, :] * smoothstep(1.0, 0.86, distance)
    outside = fur(coat, np.full(points.shape[:-1], anatomy.EARS), 0.5, 0.6) * 0.92
    colours = outside * (1 - front[..., None]) + coat.skin * front[..., None]
    return Part(points, colours, 0.34 * front * hollow * smoothstep(0.6, -0.9, along))
