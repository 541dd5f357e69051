"""Progress of long work: a live bar on a terminal, a plain line every few seconds in a log file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

T = TypeVar("T")

_BRIEF = 1.0
"""Seconds that need no report."""


def duration(seconds: float) -> str:
    """Seconds as people read them: ``42s``, ``3m05s``, ``2h10m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Count ``advance()`` calls towards ``total`` and show rate and time left.

    On a terminal: one live bar (rich). Elsewhere: one line every ``every`` seconds and one at the end, so that a log
    file stays readable; work that is over at once says nothing.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "samples",
        every: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.done = 0
        self._stream = stream or sys.stderr
        self._clock = clock
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        self._start = self._last = self._clock()
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            bar = self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(), console=Console(file=self._stream),
            )  # fmt: skip
            self._task = bar.add_task(self.what, total=self.total, note="")
            bar.start()
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more are done; ``note`` is shown beside the rate (``loss 0.081``)."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, note=note)
            return
        now = self._clock()
        if now - self._last >= self.every:
            self._last = now
            self._print(now, note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._clock() - self._start >= _BRIEF:
            self._print(self._clock(), "")

    def _print(self, now: float, note: str) -> None:
        elapsed = max(now - self._start, 1e-9)
        rate = self.done / elapsed
        if self.done >= self.total:
            when = f"took {duration(elapsed)}"
        elif rate > 0:
            when = f"ETA {duration((self.total - self.done) / rate)}"
        else:
            when = "ETA unknown"
        parts = [f"{self.what}: {self.done}/{self.total} {self.unit}", f"{rate:.2f}/s", when]
        # Work does not fail because a full disk has no room for the log.
        with suppress(OSError):
            print("  ".join(parts + ([note] if note else [])), file=self._stream, flush=True)


def tracked(items: Iterable[T], what: str, total: int, unit: str = "samples") -> Iterator[T]:
    """Iterate over ``items`` and show progress."""
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
