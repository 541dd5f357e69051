"""Asking a queue again while it does not answer."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from slurm.command import reason
from slurm.errors import Unanswered

T = TypeVar("T")

PATIENCE_S = 120.0
"""No attempt begins later than this after the first one."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_NOTICED_S = 1.0
"""After so long without an answer a person wonders."""


@contextmanager
def announced(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell soon after the begin that the queue is waited for, and how long, unless it has answered by then: a command
    that finds no controller needs half a minute to say so."""
    timer = threading.Timer(_NOTICED_S, tell, [f"SLURM has not answered yet: it is asked again for {PATIENCE_S:.0f} s"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def persevere(ask: Callable[[], T], tell: Callable[[str], None], unless: type[Unanswered] | None = None) -> T:
    """What ``ask`` returns, asked again after growing pauses while it raises ``Unanswered``.

    Args:
        ask: must do no harm when what an earlier attempt asked for was done after all.
        tell: is given a line before each pause.
        unless: a kind of ``Unanswered`` that is raised at once.

    Raises:
        RequestError: any other failure at once; the last ``Unanswered`` when patience is at an end.
    """
    pause, deadline = _FIRST_PAUSE_S, time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except Unanswered as error:
            if unless is not None and isinstance(error, unless):
                raise
            # Everybody whose command failed when slurmctld went away would come back at the same moments.
            wait = pause * random.uniform(0.5, 1.5)
            if time.monotonic() + wait > deadline:
                raise type(error)(f"asked for {PATIENCE_S:.0f} s in vain, {error.what}", error.mend) from None
            tell(f"no answer from SLURM ({reason(error)}): asking again in {wait:.0f} s")
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
