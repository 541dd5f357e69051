"""The last resort of work that reaches no step boundary in time: it goes back to the queue without saving.

Loading weights, compiling and a save that hangs can outlast the time between the warning and the end. The main thread
may be inside a library then, where Python runs no signal handler, so a thread of its own hears the signals through
Python's wake-up descriptor.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from slurm.deadline import Deadline
from slurm.place import Place
from slurm.requeue import COMES_BACK, ask, unasked
from slurm.stop import WARNINGS
from slurm.words import REQUEUE_ASKED, Words

MARGIN_S = 10.0
"""How long before the end it acts; where the grace is short, after five sixths of it."""
_LEAST_MARGIN_S = 1.0
_LOOK_AGAIN_S = 86400.0
_LAST_WORDS_S = 5.0
_DISMISSED = 0


class Watchdog:
    """Watches over the block of a ``with`` statement, in the main thread of a job's rank 0.

    Args:
        place: of this process.
        words: of this start.
        deadline: renewed at the start, at every warning, and before it acts.
        tries: as for ``unasked``: going back without saving counts as an end that nobody asked for.
        told: called in another thread with the reason, once the job goes back.
    """

    def __init__(
        self, place: Place, words: Words, deadline: Deadline, tries: int | None, told: Callable[[str], None]
    ) -> None:
        self._place, self._words, self._deadline, self._tries, self._told = place, words, deadline, tries, told
        self._warned: float | None = None
        self._margin = MARGIN_S
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._place.first and self._place.kind in ("local", "slurm"):
            self._ear, self._mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._before = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
            # A forked child shares the pipe: what ends a data loader's worker costs a question to the queue here.
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        signal.set_wakeup_fd(self._before)
        os.write(self._mouth, bytes([_DISMISSED]))
        self._thread.join(_LAST_WORDS_S)
        if not self._thread.is_alive():
            os.close(self._ear)
            os.close(self._mouth)
        self._thread = None

    def _watch(self) -> None:
        self._deadline.renew()
        while True:
            left = self._deadline.left()
            if left <= self._margin:
                # The limit may have been raised since.
                self._deadline.renew()
                if self._deadline.left() <= self._margin:
                    break
                continue
            if select.select([self._ear], [], [], min(left - self._margin, _LOOK_AGAIN_S))[0]:
                heard = os.read(self._ear, 4096)
                if _DISMISSED in heard:
                    return
                if any(number in heard for number in WARNINGS):
                    self._be_warned()
        self._go_back()

    def _be_warned(self) -> None:
        self._deadline.renew()
        self._warned = self._warned or time.monotonic()
        self._margin = min(MARGIN_S, max(self._deadline.left() / 6, _LEAST_MARGIN_S))

    def _go_back(self) -> None:
        warned = self._warned
        since = "and no warning" if warned is None else f"within {time.monotonic() - warned:.0f} s of the warning"
        reason = f"no step boundary {since}: going back to the queue without saving"

        def allowed() -> bool:
            return unasked(self._words, self._tries)

        if self._place.kind == "local":
            if allowed():
                self._told(reason)
                os._exit(COMES_BACK)
        elif ask(self._words, allowed):
            self._words.say(REQUEUE_ASKED)
            self._told(reason)
