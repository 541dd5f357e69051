"""Four legs whose feet stand where the pose puts them: two bones each, a foot, four toes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse import anatomy
from mvdiff.mouse.anatomy import Build, smoothstep
from mvdiff.mouse.coat import Coat, fur
from mvdiff.mouse.mesh import Part, cross, limb, unit
from mvdiff.mouse.pose import LEGS, Pose
from mvdiff.mouse.spine import Spine

Floats = NDArray[np.float64]

_LIMB_GRID = (20, 18)
_FOOT_GRID = (14, 14)
_TOE_GRID = (9, 8)
_TOES = 4
_DOWN = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Kind:
    """What fore and hind legs differ in; lengths in trunk lengths, coordinates forward, aside, up."""

    root: float
    """Position along the trunk of the joint with the body."""
    joint: tuple[float, float, float]
    """That joint against the spine there."""
    ankle: tuple[float, float, float]
    """The ankle's place at rest: ahead of the root, beside the spine, above the ground."""
    bones: tuple[float, float]
    bend: float
    """1 where the middle joint points ahead (knee), -1 where it points back (elbow)."""
    upper: tuple[float, float, float]
    """Radii of the upper bone's flesh."""
    lower: tuple[float, float, float]
    foot: float
    """Length from ankle to the root of the toes."""
    sole: float
    """Half width of the foot."""
    toe: float
    muscle: float
    """How far the upper leg's muscles push the flank outwards."""
    muscle_reach: float


_FORE = Kind(anatomy.CHEST, (0.0, 0.066, -0.03), (0.045, 0.082, 0.022), (0.100, 0.095), -1.0, (0.048, 0.046, 0.034),
             (0.035, 0.026, 0.018), 0.042, 0.023, 0.028, 0.020, 0.070)  # fmt: skip
_HIND = Kind(anatomy.PELVIS, (0.01, 0.086, -0.02), (-0.075, 0.122, 0.032), (0.160, 0.135), 1.0, (0.080, 0.070, 0.046),
             (0.050, 0.036, 0.022), 0.115, 0.025, 0.033, 0.052, 0.100)  # fmt: skip


_KINDS = tuple(_FORE if name.startswith("fore") else _HIND for name in LEGS)
_SIDES = tuple(1.0 if name.endswith("left") else -1.0 for name in LEGS)


@dataclass(frozen=True)
class Stance:
    """The joints of the four legs, in the order of ``LEGS``: [4, 3] each."""

    hip: Floats
    knee: Floats
    ankle: Floats
    ball: Floats
    """Root of the toes."""
    outward: Floats
    """Direction away from the body."""


def stand(spine: Spine, build: Build, pose: Pose) -> Stance:
    """Put the feet on the ground where the pose wants them and bend the legs to fit."""
    joints = [
        _joints(spine, build, kind, side, stride)
        for kind, side, stride in zip(_KINDS, _SIDES, pose.strides, strict=True)
    ]
    return Stance(*(np.stack(column) for column in zip(*joints, strict=True)))


def muscles(points: Floats, stance: Stance) -> Floats:
    """How far haunches and shoulders push the trunk's ``points`` [..., 3] outwards, as vectors [..., 3]."""
    push = np.zeros_like(points)
    for kind, hip, knee, outward in zip(_KINDS, stance.hip, stance.knee, stance.outward, strict=True):
        bone = knee - hip
        t = np.clip(np.sum((points - hip) * bone, -1) / np.sum(bone * bone), 0.0, 1.0)
        away = points - hip - t[..., None] * bone
        # only the skin on this leg's side: the other flank is as near to the bone in a thin animal
        near = np.exp(-np.sum(away**2, -1) / kind.muscle_reach**2) * smoothstep(
            0.0, 0.06, np.sum(away * outward, -1) + 0.03
        )
        push += (kind.muscle * near)[..., None] * outward
    return push


def legs(stance: Stance, build: Build, coat: Coat) -> list[Part]:
    """Upper and lower legs, feet, toes: each a batch over the four legs in the order of ``LEGS``."""
    hip, knee, ankle, ball, outward = stance.hip, stance.knee, stance.ankle, stance.ball, stance.outward
    kinds, root = list(_KINDS), np.array([kind.root for kind in _KINDS])[:, None, None]
    upper = limb(
        np.stack([hip, 0.5 * (hip + knee), knee], 1), _radii(kinds, "upper", build), outward, 0.62, *_LIMB_GRID
    )
    shin_bones = np.stack([knee, 0.45 * knee + 0.55 * ankle, ankle], 1)
    lower = limb(shin_bones, _radii(kinds, "lower", build), outward, 0.85, *_LIMB_GRID)
    across = -0.9 * np.array(_SIDES)[:, None, None]
    flank = fur(coat, np.broadcast_to(root - 0.03, upper.shape[:-1]), across, -0.25)
    below = np.linspace(0, 1, _LIMB_GRID[0])[:, None]
    bare = smoothstep(0.45, 0.95, below)[..., None]
    shin = fur(coat, np.broadcast_to(root - 0.03, lower.shape[:-1]), across, -0.3) * (1 - bare) + coat.skin * bare

    sole = np.array([kind.sole for kind in kinds])[:, None]
    feet = limb(np.stack([ankle - [0, 0, 0.010], 0.5 * (ankle + ball) - [0, 0, 0.006], ball], 1),
                sole * np.array([0.72, 0.9, 1.0]), np.broadcast_to(_DOWN, (4, 3)), 0.62, *_FOOT_GRID)  # fmt: skip
    toes = _toes(kinds, ankle, ball)
    return [
        Part(upper, flank, np.zeros(upper.shape[:-1])),
        Part(lower, shin, np.broadcast_to(0.30 * smoothstep(0.9, 0.0, below), lower.shape[:-1])),
        Part(feet, np.broadcast_to(coat.skin, feet.shape), np.full(feet.shape[:-1], 0.05)),
        Part(toes, np.broadcast_to(coat.skin, toes.shape), np.zeros(toes.shape[:-1])),
    ]


def _radii(kinds: list[Kind], bone: str, build: Build) -> Floats:
    return np.array([getattr(kind, bone) for kind in kinds]) * build.girth


def _joints(
    spine: Spine, build: Build, kind: Kind, side: float, stride: float
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Hip, knee, ankle, root of the toes, and the direction away from the body; [3] each."""
    frame = spine.frame(kind.root)
    hip = frame.point(kind.joint[0], side * kind.joint[1] * build.girth, kind.joint[2])
    ahead = unit(frame.forward * np.array([1.0, 1.0, 0.0]))
    outward = side * frame.left
    ankle = frame.origin + (kind.ankle[0] + stride) * ahead + kind.ankle[1] * build.girth * outward
    ankle[2] = kind.ankle[2]
    knee = _middle_joint(hip, ankle, kind.bones, kind.bend * ahead + 0.25 * outward)
    ball = ankle + kind.foot * unit(ahead + 0.16 * outward)
    ball[2] = 0.016
    return hip, knee, ankle, ball, outward


def _middle_joint(hip: Floats, ankle: Floats, bones: tuple[float, float], towards: Floats) -> Floats:
    """Where two bones meet between ``hip`` and ``ankle``, bent ``towards``; too short ones are stretched."""
    reach = ankle - hip
    distance = float(np.sqrt(np.sum(reach**2)))
    scale = max(1.0, 1.02 * distance / sum(bones))
    a, b = bones[0] * scale, bones[1] * scale
    along = (a * a - b * b + distance * distance) / (2 * distance)
    aside = np.sqrt(max(a * a - along * along, 0.0))
    axis = reach / distance
    bend = unit(towards - np.sum(towards * axis) * axis)
    return hip + along * axis + aside * bend


def _toes(kinds: list[Kind], ankle: Floats, ball: Floats) -> Floats:
    """Grids [4, toes, N, M, 3]: a fan of toes before each foot."""
    ahead = unit((ball - ankle) * np.array([1.0, 1.0, 0.0]))[:, None]
    aside = cross(np.broadcast_to(_DOWN, ahead.shape), ahead)
    fan = np.linspace(-1, 1, _TOES)[None, :, None]
    sole = np.array([kind.sole for kind in kinds])[:, None, None]
    length = np.array([kind.toe for kind in kinds])[:, None, None] * (1 - 0.15 * fan**2)
    start = ball[:, None] - 0.012 * ahead + 0.72 * sole * fan * aside  # [4, toes, 3]
    tip = start + (length + 0.012) * unit(ahead + 0.34 * fan * aside)
    start[..., 2], tip[..., 2] = 0.013, 0.009
    return limb(np.stack([start, tip], -2), np.array([0.009, 0.007]), aside + 0 * start, 1.0, *_TOE_GRID)
