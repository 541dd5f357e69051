"""Importing large libraries."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Keep Python's garbage collector away from what a block imports, for good; the first block of a process counts.

    torch and diffusers make a million objects that live as long as the process. To look through them while they appear,
    in every full collection and once more at the exit takes a short process about a third of its time.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()  # what is garbage now would stay
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
