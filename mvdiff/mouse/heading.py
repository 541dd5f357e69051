"""Which way a mouse faces, in degrees counter-clockwise seen from above, as the rig counts azimuth.

At 0 it looks at the camera at azimuth 0, at 90 that camera sees its side, the nose to the right of the picture.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from mvdiff.errors import InputError

_NAMED = {"front": (0.0,), "side": (90.0,), "front-or-side": (0.0, 90.0)}
_JITTER = 8.0


@dataclass(frozen=True)
class Heading:
    """A rule from which a heading is drawn for each picture."""

    name: str
    """``front``, ``side``, ``front-or-side`` (each with a few degrees of jitter), ``any``, or a number of degrees."""

    @classmethod
    def parse(cls, given: str | float) -> Self:
        """Read a heading from a config; an ``InputError`` lists what is possible."""
        if isinstance(given, str) and (given in _NAMED or given == "any"):
            return cls(given)
        try:
            degrees = float(given)
        except (TypeError, ValueError):
            degrees = float("nan")
        if not np.isfinite(degrees):
            names = ", ".join([*_NAMED, "any"])
            raise InputError(f"heading {given!r} is not known", f"choose one of {names}, or a number of degrees")
        return cls(f"{round(degrees, 3) % 360.0:g}")

    def draw(self, rng: np.random.Generator) -> float:
        """Degrees in [0, 360)."""
        which, jitter = rng.random(), rng.uniform(-_JITTER, _JITTER)
        if self.name == "any":
            return float(360.0 * which)
        if self.name in _NAMED:
            angles = _NAMED[self.name]
            return (angles[int(which * len(angles))] + float(jitter)) % 360.0
        return float(self.name)
