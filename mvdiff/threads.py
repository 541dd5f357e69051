"""The same work for many items, by several threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def concurrently(work: Callable[[S], T], items: Iterable[S], threads: int | None = None) -> Iterator[T]:
    """``work`` of each item, in order, by a thread a core (decoding pictures lets go of Python's lock).

    ``threads``: by so many instead, for work that waits more than it computes. Items are taken by the caller's thread.
    """
    workers = threads or len(os.sched_getaffinity(0))
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
