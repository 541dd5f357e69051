"""Batches read ahead of the sampler: slices claimed, earlier attempts' rows taken over, inputs read, in a thread."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from mvdiff.durable import disk_is_full
from mvdiff.generate.attempt import Attempt
from mvdiff.generate.claims import Claim, Claims
from mvdiff.generate.inputs import Input, InputReader, Unreadable
from mvdiff.generate.lease import Heartbeat
from mvdiff.generate.plan import Plan
from mvdiff.generate.suspects import Failure

_LOOK_S = 0.05


class Work:
    """A claimed slice on its way through the worker."""

    def __init__(self, claim: Claim, attempt: Attempt, heartbeat: Heartbeat) -> None:
        self.claim, self.attempt, self.heartbeat = claim, attempt, heartbeat
        self.failures: dict[str, Failure] = {}
        self.started = time.monotonic()
        self.begun = False
        """Whether anything was sampled for it."""
        self.closed = False
        """Whether nothing more is written for it; its lease is given back then."""


@dataclass(frozen=True)
class Batch:
    """A planned batch of a slice, or the end of the slice."""

    work: Work
    begin: int
    """Place of its first sample in the slice."""
    inputs: list[Input | None]
    """By place; None where the input cannot be read or the row is there already."""
    unreadable: dict[str, Failure]
    last: bool
    """Nothing more of this slice comes."""


class Feed:
    """Iterates over the batches that there are to do; as a context manager it runs its thread.

    Args:
        time_left: seconds until the queue ends this process.
        should_stop: asked often; the iteration ends soon after it turns true.
        poll_seconds: longest wait between two looks when all slices are held by others.
        check: raises what went wrong behind the sampler; asked while nothing comes.
        full_disk_seconds: how long a full disk is waited for.
        drop: what to do with a claimed slice that is not worked on after all.
    """

    def __init__(
        self,
        plan: Plan,
        claims: Claims,
        *,
        batch: int,
        heartbeat_seconds: float,
        poll_seconds: float,
        should_stop: Callable[[], bool],
        time_left: Callable[[], float],
        drop: Callable[[Work], None],
        check: Callable[[], None],
        full_disk_seconds: float,
    ) -> None:
        self._plan, self._claims, self._batch = plan, claims, batch
        self._heartbeat_seconds, self._poll_seconds = heartbeat_seconds, poll_seconds
        self._should_stop, self._time_left, self._drop = should_stop, time_left, drop
        self._batches = -(-max(plan.sizes().values(), default=1) // batch)
        self._inputs = InputReader(plan.recipe.reference_view)
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=1)
        self._leave, self._taken, self._news = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._check = check
        self._full_disk_seconds = full_disk_seconds
        self._full_since: float | None = None
        self.batch_seconds: float | None = None
        """What a batch takes, told by whoever samples; None: not known yet."""
        self.ended: Literal["done", "stopped"] = "stopped"
        """Why the iteration ended: every slice is published, or it was to stop."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        self._news.set()
        while self._thread.is_alive():
            # What stands in the queue must not keep the thread from its end.
            with suppress(queue.Empty):
                self._give_up(self._ready.get(timeout=_LOOK_S))
            self._thread.join(timeout=0)
        with suppress(queue.Empty):
            while True:
                self._give_up(self._ready.get_nowait())

    def __iter__(self) -> Iterator[Batch]:
        begun: Work | None = None
        while not self._stopping():
            try:
                found = self._ready.get(timeout=_LOOK_S)
            except queue.Empty:
                self._check()
                continue
            self._taken.set()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            # It was claimed ahead, perhaps before anybody knew what a slice takes.
            too_late = found.work is not begun and not self._time_for_a_slice()
            if self._stopping() or too_late:
                self._give_up(found)
                return
            begun = found.work
            yield found

    def look(self) -> None:
        """Look at the slices now: one that was worked on here is published."""
        self._news.set()

    def _give_up(self, found: Batch | BaseException | None) -> None:
        if isinstance(found, Batch):
            self._drop(found.work)

    def _stopping(self) -> bool:
        return self._leave.is_set() or self._should_stop()

    def _run(self) -> None:
        try:
            self._feed()
        except BaseException as error:
            self._put(error)
        else:
            self._put(None)
        finally:
            self._inputs.close()

    def _feed(self) -> None:
        pause = self._poll_seconds / 16
        while not self._stopping():
            self._taken.clear()
            if not self._ready.empty():
                # The slice in hand is not begun yet: a worker is ahead by one slice at most.
                self._taken.wait(_LOOK_S)
                continue
            self._news.clear()
            claim = self._claims.next() if self._time_for_a_slice() else None
            if claim is not None:
                pause = self._poll_seconds / 16
                self._feed_slice(claim)
            elif self._claims.finished:
                if self._claims.reopened():
                    continue
                self.ended = "done"
                return
            elif not self._time_for_a_slice():
                return
            else:
                pause = self._poll_seconds / 16 if self._news.wait(pause) else min(2 * pause, self._poll_seconds)

    def _time_for_a_slice(self) -> bool:
        """Whether a slice can be done before the queue ends this process, as far as known."""
        if self.batch_seconds is None:
            return True
        return self._time_left() >= self.batch_seconds * self._batches

    def _feed_slice(self, claim: Claim) -> None:
        part = self._plan.slice_at(claim.number)
        heartbeat = Heartbeat(claim.lease, self._heartbeat_seconds)
        heartbeat.start()
        attempt = Attempt(self._plan.folder, part, claim.lease, self._plan.recipe)
        work = Work(claim, attempt, heartbeat)
        handed_over = False
        try:
            attempt.adopt()
            missing = set(attempt.missing()) if not attempt.complete else set()
            begins = sorted({place // self._batch * self._batch for place in missing})
            if not begins:
                handed_over = True
                self._put(Batch(work, 0, [], {}, True))
            for begin in begins:
                if self._stopping() or attempt.lost:
                    break
                batch = self._read(work, begin, missing, begin == begins[-1])
                handed_over = True
                self._put(batch)
        except BaseException as error:
            self._drop(work)
            if isinstance(error, Exception) and self._plan.is_published(part.name):
                # Whoever publishes a slice clears away what others wrote for it; an error of theirs then means nothing.
                return
            if disk_is_full(error) and self._may_wait():
                self._leave.wait(self._poll_seconds)
                return
            raise
        self._full_since = None
        if not handed_over:
            self._drop(work)

    def _may_wait(self) -> bool:
        """Whether a full disk may be waited for, since it is not full for long."""
        now = time.monotonic()
        self._full_since = now if self._full_since is None else self._full_since
        return now - self._full_since < self._full_disk_seconds

    def _read(self, work: Work, begin: int, missing: set[int], last: bool) -> Batch:
        part = work.attempt.part
        inputs: list[Input | None] = []
        unreadable: dict[str, Failure] = {}
        for k in range(begin, min(begin + self._batch, len(part))):
            sample = None
            if k in missing:
                try:
                    sample = self._inputs.read(part.shards[k], part.rows[k], part.ids[k], part.checksums[k])
                except Unreadable as error:
                    unreadable[part.ids[k]] = Failure("input", str(error))
            inputs.append(sample)
        return Batch(work, begin, inputs, unreadable, last)

    def _put(self, found: Batch | BaseException | None) -> None:
        while not self._leave.is_set():
            with suppress(queue.Full):
                self._ready.put(found, timeout=_LOOK_S)
                return
        self._give_up(found)
