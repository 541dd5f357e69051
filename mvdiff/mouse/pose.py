"""How a mouse holds itself: bends of spine, neck and tail, and where its feet stand."""

from dataclasses import dataclass

import numpy as np

LEGS = ("fore right", "fore left", "hind right", "hind left")


@dataclass(frozen=True)
class Pose:
    """Angles in degrees; yaw turns to the animal's left, pitch lifts the front end."""

    trunk_yaw: float
    """Sideways bend between pelvis and chest."""
    trunk_pitch: float
    """Lift of the chest over the pelvis."""
    arch: float
    """Hump of the back: the loin rises and the chest comes down again."""
    neck_yaw: float
    neck_pitch: float
    strides: tuple[float, float, float, float]
    """How far each foot (in the order of ``LEGS``) stands ahead of its place at rest, in trunk lengths."""
    tail_yaw: float
    """Direction in which the tail leaves the body, 0 straight back."""
    tail_curl: float
    """Bend over the whole length of the tail."""
    tail_wave: float
    """Bend of its first half, taken back by the second."""
    tail_lift: float
    """Height of the tail's tip above its rest, in trunk lengths."""


def random_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose of a mouse that stands, walks, sniffs or looks round, all four feet on the ground."""
    phase, step = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.05)
    # a walk moves diagonal feet together
    swing = step * np.sin(phase + np.pi * np.array([0.0, 1.0, 1.0, 0.0])) + rng.normal(0, 0.008, 4)
    strides = tuple(float(v) for v in swing)
    turn = rng.normal(0, 1)
    return Pose(
        trunk_yaw=float(np.clip(9 * turn, -20, 20)),
        trunk_pitch=float(rng.uniform(-2, 9)),
        arch=float(rng.uniform(-3, 10)),
        neck_yaw=float(np.clip(9 * turn + rng.normal(0, 12), -32, 32)),
        neck_pitch=float(rng.uniform(-16, 14)),
        strides=(strides[0], strides[1], strides[2], strides[3]),
        tail_yaw=float(np.clip(rng.normal(0, 15), -30, 30)),
        tail_curl=float(np.clip(rng.normal(0, 55), -110, 110)),
        tail_wave=float(rng.normal(0, 25)),
        tail_lift=float(max(rng.uniform(-0.1, 0.22), 0.0)),
    )
