"""The flag that a queue's warning signals raise.

A handler that did more would run between any two instructions of whatever the process is doing, on one rank before the
others: a collective there hangs for ever. So signals only raise the flag, and the work looks at it at its own step
boundaries.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

WARNINGS = (signal.SIGUSR2, signal.SIGTERM)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of the warning signals back at the end of the block: what runs a job inside itself goes on."""
    before = {number: signal.getsignal(number) for number in WARNINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not installed by Python, which cannot put it back
                signal.signal(number, handler)


class StopFlag:
    """Raised by SIGUSR2 (time limit or preemption is near) and SIGTERM; a second signal changes nothing."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the first signal that came."""
        self.since: float | None = None
        """When it came, in seconds of the monotonic clock."""

    @classmethod
    def install(cls) -> Self:
        """Let this process's warning signals raise a new flag; only the main thread may call this."""
        flag = cls()
        for number in WARNINGS:
            signal.signal(number, flag._raise)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
        return flag

    def is_set(self) -> bool:
        """Whether the job has been asked to stop."""
        return self.signal is not None

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.since = signal.Signals(number).name, time.monotonic()
