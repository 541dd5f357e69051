"""Saving behind training: one thread that writes one checkpoint at a time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Saver(Generic[T]):
    """Runs one ``save`` at a time in a thread of its own; what it returned, or raised, is asked for later."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._running: Future[T] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A save under way is finished first."""
        self._thread.shutdown(wait=True)

    def begin(self, save: Callable[[], T]) -> None:
        """Start ``save``; the outcome of the one before must have been taken."""
        assert self._running is None
        self._running = self._thread.submit(save)

    def outcome(self, wait: bool) -> T | None:
        """What the save returned, once; None while it runs (unless ``wait``) and where there is none."""
        if self._running is None or not (wait or self._running.done()):
            return None
        running, self._running = self._running, None
        return running.result()
