"""Results written behind the sampler: rows appended, slices published, in a thread of their own."""

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mvdiff.durable import disk_is_full
from mvdiff.errors import InputError

Task = Callable[[], None]


class Scribe:
    """Does tasks one after the other; the first error ends it and is raised at the next call here.

    A task that finds the disk full is done again until there is room.

    Args:
        name: of the thread.
        patience: seconds to wait for room.
        pause: seconds between two tries.
        should_stop: a stop is not kept waiting for room.
        on_full: told once, with the error, when waiting begins.
    """

    def __init__(
        self,
        name: str,
        *,
        patience: float,
        pause: float,
        should_stop: Callable[[], bool],
        on_full: Callable[[Exception], None],
    ) -> None:
        self._patience, self._pause, self._should_stop, self._on_full = patience, pause, should_stop, on_full
        self._tasks: queue.Queue[tuple[Task, bool] | None] = queue.Queue()
        self._error: BaseException | None = None
        self._left = False
        """Whether a stop came while the disk was full: what is open then is left undone."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def do(self, *tasks: Task, always: bool = False) -> None:
        """Have ``tasks`` done once those of earlier calls are, which is waited for: a kill costs one call's, no more.

        ``always``: even behind one that failed, and without telling of that here.
        """
        self._tasks.join()
        for task in tasks:
            self._tasks.put((task, always))
        if not always:
            self.check()

    def check(self) -> None:
        """Raise what a task raised."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.put(None)
        self._thread.join()
        if kind is None:
            self.check()

    def _run(self) -> None:
        while (found := self._tasks.get()) is not None:
            task, always = found
            if always or not (self._error or self._left):
                try:
                    self._done(task)
                except BaseException as error:
                    self._error = self._error or error
            self._tasks.task_done()

    def _done(self, task: Task) -> None:
        waited_since: float | None = None
        while True:
            try:
                return task()
            except (InputError, OSError) as error:
                now = time.monotonic()
                if not disk_is_full(error):
                    raise
                if waited_since is None:
                    waited_since = now
                    self._on_full(error)
                if self._should_stop():
                    self._left = True
                    return None
                if now - waited_since > self._patience:
                    raise
            time.sleep(self._pause)
