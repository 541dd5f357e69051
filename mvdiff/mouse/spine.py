"""The posed spine: where each cross-section of the trunk stands and how it is turned."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse import anatomy
from mvdiff.mouse.anatomy import Build, Outline, smoothstep
from mvdiff.mouse.mesh import cross
from mvdiff.mouse.pose import Pose

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """A place on the body and its axes, [3] each: the animal's own forward, left and up there."""

    origin: Floats
    forward: Floats
    left: Floats
    up: Floats

    def point(self, forward: float, left: float, up: float) -> Floats:
        """The point at these coordinates."""
        return self.origin + forward * self.forward + left * self.left + up * self.up

    def direction(self, forward: float, left: float, up: float) -> Floats:
        """The vector with these components."""
        return forward * self.forward + left * self.left + up * self.up


@dataclass(frozen=True)
class Spine:
    """Centre line of the trunk and its axes, a row a cross-section from nose to rump: [N, 3] each."""

    at: Floats
    centre: Floats
    forward: Floats
    left: Floats
    up: Floats

    def frame(self, at: float) -> Frame:
        """The frame at position ``at``, 0 nose .. 1 rump."""
        i = int(np.searchsorted(self.at, at))
        return Frame(self.centre[i], self.forward[i], self.left[i], self.up[i])


def posed(build: Build, outline: Outline, pose: Pose) -> Spine:
    """Bend the resting trunk; the pelvis stays where it is at rest (Z up, the animal faces +X, ground at 0)."""
    at = outline.at
    yaw = pose.trunk_yaw * smoothstep(anatomy.PELVIS, anatomy.CHEST, at)
    yaw = yaw + pose.neck_yaw * smoothstep(anatomy.NECK + 0.06, anatomy.SKULL, at)
    pitch = pose.trunk_pitch * smoothstep(anatomy.PELVIS + 0.1, anatomy.LOIN, at)
    pitch = pitch + pose.arch * (
        smoothstep(anatomy.PELVIS + 0.1, anatomy.PELVIS - 0.04, at) - 2 * smoothstep(anatomy.LOIN, anatomy.CHEST, at)
    )
    # the head stays level by itself: what the trunk does is undone at the neck
    level = pose.neck_pitch + pose.arch - 0.7 * pose.trunk_pitch
    pitch = pitch + level * smoothstep(anatomy.NECK + 0.04, anatomy.SKULL, at)
    yaw, pitch = np.deg2rad(yaw), np.deg2rad(pitch)

    # steps towards the nose, from each row to the one before it
    length, rise = np.diff(at), outline.height[:-1] - outline.height[1:]
    step_yaw, step_pitch = 0.5 * (yaw[1:] + yaw[:-1]), 0.5 * (pitch[1:] + pitch[:-1])
    ahead = length * np.cos(step_pitch) - rise * np.sin(step_pitch)
    climb = length * np.sin(step_pitch) + rise * np.cos(step_pitch)
    step = np.stack([ahead * np.cos(step_yaw), ahead * np.sin(step_yaw), climb], -1)
    centre = np.concatenate([np.cumsum(step[::-1], 0)[::-1], np.zeros((1, 3))])
    pelvis = int(np.searchsorted(at, anatomy.PELVIS))
    rest = np.array([0.5 - at[pelvis], 0.0, outline.height[pelvis]])
    centre = centre - centre[pelvis] + rest

    forward = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], -1)
    left = np.stack([-np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)], -1)
    return Spine(at, centre, forward, left, cross(forward, left))
