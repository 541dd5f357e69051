"""Coat and skin colours of one animal, painted on the body's own coordinates so that they move with it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvdiff.mouse.anatomy import EYES, smoothstep

Floats = NDArray[np.float64]

# back, belly; RGB in 0..1
_COLOURS = {
    "agouti": ((0.50, 0.38, 0.25), (0.76, 0.67, 0.54)),
    "black": ((0.16, 0.15, 0.16), (0.23, 0.21, 0.21)),
    "blue": ((0.40, 0.43, 0.49), (0.55, 0.57, 0.61)),
    "chocolate": ((0.34, 0.21, 0.15), (0.44, 0.30, 0.22)),
    "cinnamon": ((0.62, 0.41, 0.25), (0.82, 0.68, 0.53)),
    "fawn": ((0.76, 0.58, 0.38), (0.86, 0.75, 0.61)),
    "grey": ((0.52, 0.51, 0.51), (0.70, 0.69, 0.68)),
    "cream": ((0.84, 0.77, 0.64), (0.88, 0.83, 0.74)),
    "white": ((0.85, 0.84, 0.83), (0.87, 0.86, 0.85)),
}
_PATCHED_SHARE = 0.3
_PATCH = np.array([0.86, 0.83, 0.79])


@dataclass(frozen=True)
class Coat:
    """Colours RGB [3] in 0..1 and the pattern they form."""

    back: Floats
    belly: Floats
    skin: Floats
    """Nose, paws, tail, inside of the ears."""
    eyes: Floats
    belly_edge: float
    """Where the belly's colour begins: the sine of the angle on a cross-section, -1 underneath."""
    patches: Floats
    """Waves [K, 5] whose sum makes pale patches: amplitude, turns along, across and up, phase. K is 0 without."""
    grain: int
    """Seed of the fur's texture."""


def random_coat(rng: np.random.Generator) -> Coat:
    """Draw a coat: a common colour of pet and laboratory mice, slightly varied, sometimes with pale patches."""
    names = sorted(_COLOURS)
    name = names[int(rng.integers(len(names)))]
    back, belly = (np.array(c) for c in _COLOURS[name])
    # lighter or darker, and warmer or colder; a greenish mouse does not exist
    tint = rng.normal(0, 0.035) + rng.normal(0, 0.015) * np.array([1.0, 0.1, -1.0])
    back, belly = np.clip(back + tint, 0.08, 0.88), np.clip(belly + tint, 0.10, 0.90)
    if rng.random() < 0.35:
        belly = 0.3 * belly + 0.7 * back
    skin = np.array([0.86, 0.60, 0.57]) + rng.normal(0, 0.02, 3)
    eyes = np.array([0.42, 0.06, 0.08]) if name == "white" and rng.random() < 0.5 else np.array([0.04, 0.03, 0.03])
    patched = rng.random() < _PATCHED_SHARE and name not in ("white", "cream")
    waves = np.stack(
        [rng.uniform(0.6, 1.0, 5), rng.uniform(0.8, 2.2, 5), rng.uniform(-0.5, 0.5, 5), rng.uniform(-0.4, 0.4, 5),
         rng.uniform(0, 1, 5)], -1,
    )  # fmt: skip
    return Coat(
        back, belly, np.clip(skin, 0, 1), eyes, float(rng.uniform(-0.62, -0.30)), waves if patched else waves[:0],
        int(rng.integers(2**32)),
    )  # fmt: skip


def fur(coat: Coat, at: ArrayLike, across: ArrayLike, up: ArrayLike) -> Floats:
    """Colour [..., 3] of fur at ``at`` (0 nose .. 1 rump), ``across`` and ``up`` (cosine and sine on the section)."""
    at, across, up = np.broadcast_arrays(np.asarray(at, float), np.asarray(across, float), np.asarray(up, float))
    under = smoothstep(coat.belly_edge + 0.22, coat.belly_edge - 0.22, up)[..., None]
    colour = coat.back * (1 - under) + coat.belly * under
    colour = colour * (1 - 0.14 * smoothstep(0.72, 0.98, up) * smoothstep(EYES, 0.4, at))[..., None]
    if len(coat.patches):
        field = np.zeros_like(at)
        for amplitude, turns, sideways, upwards, phase in coat.patches:
            field += amplitude * np.cos(2 * np.pi * (turns * at + sideways * across + upwards * up + phase))
        pale = smoothstep(0.15, 0.55, field)[..., None]
        colour = colour * (1 - pale) + _PATCH * pale
    grain = np.random.Generator(np.random.Philox(coat.grain)).standard_normal(at.shape)
    # hairs lie along the body: smear the grain along the rows
    grain = grain + np.roll(grain, 1, -2) + np.roll(grain, -1, -2)
    return np.clip(colour * (1 + 0.03 * grain[..., None]), 0, 1)
