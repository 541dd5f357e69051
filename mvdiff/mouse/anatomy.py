"""The build of one mouse: the outline of its trunk, and the proportions in which animals differ.

Lengths are in trunk lengths (nose to tail base, stretched out). The trunk is a tube of upright ellipses; an ellipse's
upper and lower half have heights of their own, which gives a rounded back over a flatter belly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse.mesh import spline

Floats = NDArray[np.float64]

# along the trunk from nose to rump: position, height of the centre line, half width, height above, depth below
_OUTLINE = np.array(
    [
        (0.000, 0.150, 0.001, 0.001, 0.001),
        (0.006, 0.151, 0.018, 0.017, 0.015),
        (0.022, 0.155, 0.032, 0.031, 0.027),
        (0.055, 0.164, 0.048, 0.048, 0.040),
        (0.095, 0.178, 0.068, 0.069, 0.055),
        (0.140, 0.194, 0.088, 0.088, 0.070),
        (0.190, 0.206, 0.102, 0.098, 0.086),
        (0.250, 0.210, 0.107, 0.100, 0.102),
        (0.330, 0.206, 0.113, 0.110, 0.120),
        (0.420, 0.206, 0.130, 0.136, 0.138),
        (0.540, 0.214, 0.154, 0.170, 0.154),
        (0.670, 0.218, 0.174, 0.190, 0.163),
        (0.780, 0.208, 0.174, 0.184, 0.155),
        (0.870, 0.190, 0.152, 0.158, 0.132),
        (0.935, 0.168, 0.116, 0.119, 0.098),
        (0.980, 0.148, 0.068, 0.072, 0.062),
        (0.997, 0.138, 0.026, 0.028, 0.026),
        (1.000, 0.137, 0.001, 0.001, 0.001),
    ]
)

EYES, SKULL, EARS, NECK, CHEST, LOIN, PELVIS, TAIL_BASE = 0.13, 0.17, 0.222, 0.33, 0.42, 0.55, 0.71, 0.972
"""Landmarks along the trunk, 0 at the nose and 1 at the rump."""


@dataclass(frozen=True)
class Build:
    """Proportions of one animal; 1 is an average mouse."""

    girth: float
    """Width and height of the trunk behind the neck."""
    hips: float
    """Width of the hind quarters against that of the shoulders."""
    head: float
    """Width and height of the head."""
    ears: float
    """Size of the ears."""
    tail: float
    """Length of the tail."""
    size: float
    """Size of the whole animal in the picture."""


def random_build(rng: np.random.Generator) -> Build:
    """Draw an animal's proportions."""
    low = np.array([0.90, 0.95, 0.94, 0.88, 0.85, 0.94])
    high = np.array([1.12, 1.08, 1.08, 1.15, 1.15, 1.00])
    return Build(*(float(v) for v in rng.uniform(low, high)))


@dataclass(frozen=True)
class Outline:
    """The trunk at rest, a row a cross-section; all [N]."""

    at: Floats
    """Position from nose (0) to rump (1)."""
    height: Floats
    """Centre line above the ground."""
    width: Floats
    above: Floats
    below: Floats


def outline(build: Build, rows: int) -> Outline:
    """Cross-sections of the trunk at rest, closer together towards both ends."""
    even = np.linspace(0, 1, rows)
    at = 0.35 * even + 0.65 * (0.5 - 0.5 * np.cos(np.pi * even))
    height, width, above, below = spline(_OUTLINE[:, 0], _OUTLINE[:, 1:], at).T
    behind = smoothstep(EARS, CHEST, at)
    girth = build.head + (build.girth - build.head) * behind
    hips = 1 + (build.hips - 1) * smoothstep(CHEST, PELVIS, at)
    # a stouter animal grows upwards: its belly may not sink into the ground
    return Outline(at, height + 0.13 * (girth - 1) * behind, width * girth * hips, above * girth, below * girth)


def smoothstep(start: float, end: float, x: Floats) -> Floats:
    """0 at ``start``, 1 at ``end``, level at both and beyond; ``end`` may be the smaller one."""
    t = np.clip((x - start) / (end - start), 0.0, 1.0)
    return t * t * (3 - 2 * t)
