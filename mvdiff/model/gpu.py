"""GPUs that a model may be meant for, and how much of their memory tensors can have. Imports no torch."""

import difflib
import math
from dataclasses import dataclass

from mvdiff.errors import InputError

GIB = 2**30

CARDS = {
    "rtx4090-24gb": 23.5,
    "a100-40gb": 39.4,
    "l40s-48gb": 44.4,
    "a100-80gb": 79.2,
    "h100-80gb": 79.1,
    "h200-141gb": 139.7,
}
"""Cards by name, and the GiB that the driver reports as their total, which is less than its name says."""

_CONTEXT = 0.7 * GIB
"""Bytes of the CUDA context with the kernels of torch, cuBLAS and cuDNN."""
_GAPS = 0.05
"""Share of the rest that is lost between tensors."""


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    total: int
    """Bytes of memory."""

    @property
    def room(self) -> int:
        """Bytes that tensors can have."""
        return max(0, int((self.total - _CONTEXT) * (1 - _GAPS)))


def card(value: str | float) -> Card:
    """The card of a name, of the beginning of one card's name alone, or of a number of GiB.

    Raises:
        InputError: none, or several, are called so.
    """
    text = str(value).lower()
    try:
        gib = float(text)
    except ValueError:
        pass
    else:
        if not (math.isfinite(gib) and gib > 0):
            raise InputError(f"card={value}", "give a number of GiB above 0")
        return Card(f"{gib:g} GiB", int(gib * GIB))
    found = [name for name in CARDS if name.startswith(text)]
    if text in CARDS or len(found) == 1:
        return Card(found[0], int(CARDS[found[0]] * GIB))
    near = found or difflib.get_close_matches(text, CARDS) or list(CARDS)
    raise InputError(f"card={value} is {'not one card' if found else 'unknown'}", f"choose {', '.join(near)}, or GiB")
