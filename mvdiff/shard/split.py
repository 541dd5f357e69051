"""Which recordings are held out. Neighbouring frames look alike, so a recording is never divided."""

import math
from collections import Counter
from collections.abc import Iterable

import xxhash

from mvdiff.errors import InputError


def held_out_recordings(recordings: Iterable[str], held_out: int | float, seed: int) -> frozenset[str]:
    """The recordings to hold out, a pure function of the arguments, whatever their order.

    ``recordings``: that of each sample. ``held_out``: how many samples (int), or which share of them (float below 1).
    Recordings are taken in an order drawn from (seed, name) for as long as they fit, so the samples held out never
    exceed what was asked, and reach it exactly where every recording has one sample. Where no recording is small
    enough, the smallest is taken. Raises ``InputError`` when that would leave nothing to train on.
    """
    sizes = Counter(recordings)
    total = sizes.total()
    if not 0 <= held_out < math.inf or (isinstance(held_out, float) and held_out >= 1 and not held_out.is_integer()):
        raise InputError(f"held_out is {held_out}", "give a number of samples, or a fraction below 1")
    wanted = max(1, round(held_out * total)) if 0 < held_out < 1 else int(held_out)
    if wanted == 0:
        return frozenset()
    if wanted >= total:
        raise InputError(f"held_out asks for {wanted} of {total} samples", "leave some to train on")
    order = sorted(sizes, key=lambda name: (xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()), name))
    chosen: set[str] = set()
    for name in order:
        if sizes[name] <= wanted:
            chosen.add(name)
            wanted -= sizes[name]
    if not chosen:
        if len(sizes) < 2:
            raise InputError("all samples are of one recording", "say held_out=0, or name the recordings apart")
        chosen.add(min(order, key=lambda name: sizes[name]))
    return frozenset(chosen)
