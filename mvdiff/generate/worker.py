"""One worker: claims slices, samples them batch by batch, publishes them, until nothing is left.

Four threads: the feed claims slices and reads inputs ahead, this one samples, the scribe writes rows behind it, and the
press publishes whole slices behind that.
A worker's files in the set's folder: ``leases/SLICE.ATTEMPT``; ``attempts/SLICE.ATTEMPT/`` with the rows of an
unfinished attempt, written by that attempt alone; ``suspects/SLICE.WORKER.NONCE.json``; ``slice-SLICE.h5``, the
published result; ``ledger/WORKER.NONCE.jsonl``. ``leases``, ``attempts`` and ``suspects`` are swept when all is
published.
"""

import math
import shutil
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NoReturn

from mvdiff.errors import one_line
from mvdiff.events import EventLog
from mvdiff.generate import attempt, lease, suspects
from mvdiff.generate.attempt import Lost
from mvdiff.generate.claims import Claims
from mvdiff.generate.feed import Batch, Feed, Work
from mvdiff.generate.lease import TWIN, LeaseBook
from mvdiff.generate.ledger import Ledger
from mvdiff.generate.owner import Owner
from mvdiff.generate.plan import Plan
from mvdiff.generate.scribe import Scribe
from mvdiff.generate.settings import GenerateSettings, sample_seed
from mvdiff.generate.sheet import Sheet
from mvdiff.generate.starts import PROGRESSED
from mvdiff.generate.suspects import Failure, Suspects
from mvdiff.generate.trial import DeviceLost, Sampler, Trial
from mvdiff.progress import Progress
from mvdiff.shard import Sample

FULL_DISK_SECONDS = 600.0
"""How long a full disk is waited for: somebody may make room."""
SHEET_SECONDS = 60.0
"""Time between two drawings of the sheet, which take a fifth of a second."""
_PACE_BATCHES = 5


class SamplerBroken(Exception):
    """Sample after sample failed in the sampler: the fault lies with this worker or its node, not with the samples."""


def run_worker(
    folder: Path,
    sampler: Sampler,
    name: str,
    should_stop: Callable[[], bool],
    *,
    settings: GenerateSettings,
    events: EventLog,
    host: str | None = None,
    only_host: bool = True,
    time_left: Callable[[], float] = lambda: math.inf,
) -> Literal["done", "stopped"]:
    """Work on the result set ``folder`` as the worker called ``name`` (unique among those that run).

    Returns ``"done"`` when every slice is published, by whomever, and ``"stopped"`` soon after ``should_stop()`` turns
    true (it is asked between batches and while waiting; the batch in hand is kept for whoever takes the slice next),
    or when ``time_left()`` seconds are fewer than a slice takes.

    A sample that fails alone is left out once it has failed on two hosts, or twice on the only one there is: ``host``
    is this one's name (the machine's by default), and ``only_host`` says that no worker runs on another. Of
    ``settings`` only lease, heartbeat, poll and give_up_after are used; what decides the outputs comes from the plan.

    Raises ``SamplerBroken`` when ``give_up_after`` samples in a row failed in the sampler or its device is lost, and
    ``InputError`` for a damaged plan or a disk that stays full.
    """
    return _Worker(folder, sampler, name, should_stop, settings, events, host, only_host, time_left).run()


class _Worker:
    def __init__(
        self,
        folder: Path,
        sampler: Sampler,
        name: str,
        should_stop: Callable[[], bool],
        settings: GenerateSettings,
        events: EventLog,
        host: str | None,
        only_host: bool,
        time_left: Callable[[], float],
    ) -> None:
        self._plan = Plan.load(folder)
        self._recipe = self._plan.recipe
        self._name, self._should_stop, self._settings, self._events = name, should_stop, settings, events
        owner = Owner.here(name, host)
        self._ledger = Ledger(folder, owner)
        self._suspects = Suspects(folder, owner)
        self._sizes = self._plan.sizes()
        self._counted: dict[str, int] = {}
        self._counting = threading.Lock()
        self._claims = Claims(
            self._plan, LeaseBook(folder / lease.FOLDER, owner, settings.lease_seconds), owner,
            lease_seconds=settings.lease_seconds, patience=settings.poll_seconds, only_host=only_host,
            on_published=lambda slice_: self._count(slice_, self._sizes[slice_]),
        )  # fmt: skip
        self._trial = Trial(sampler, self._recipe.size, self._note_halved)
        self._feed = Feed(
            self._plan, self._claims, batch=self._recipe.batch, heartbeat_seconds=settings.heartbeat_seconds,
            poll_seconds=settings.poll_seconds, should_stop=should_stop, time_left=time_left, drop=self._drop,
            check=self._check, full_disk_seconds=FULL_DISK_SECONDS,
        )  # fmt: skip
        self._scribe, self._press = (
            Scribe(
                name, patience=FULL_DISK_SECONDS, pause=settings.heartbeat_seconds / 8, should_stop=should_stop,
                on_full=self._note_full,
            )
            for name in ("scribe", "press")
        )  # fmt: skip
        self._sheet = Sheet(self._plan, SHEET_SECONDS)
        self._pace: deque[float] = deque(maxlen=_PACE_BATCHES)
        self._failed_in_a_row = 0
        self._got_somewhere = self._ever_made = False

    def run(self) -> Literal["done", "stopped"]:
        total = sum(self._sizes[name] for name in self._claims.names)
        with Progress("all workers together", total) as self._progress, self._press, self._scribe, self._feed:
            self._scribe.do(self._ledger.began)
            working: Work | None = None
            try:
                for batch in self._feed:
                    working = batch.work
                    self._do(batch)
            finally:
                if working is not None:
                    self._drop(working)
        if self._feed.ended == "done":
            self._sweep()
            self._sheet.sweep()
            self._sheet.draw()
        self._events.write(self._feed.ended, worker=self._name)
        return self._feed.ended

    def _check(self) -> None:
        """Raise what went wrong behind the sampler."""
        self._scribe.check()
        self._press.check()

    def _do(self, batch: Batch) -> None:
        """Sample one batch and hand it on."""
        self._check()
        work = batch.work
        if work.attempt.lost:
            return
        if not work.claim.lease.held() or self._plan.is_published(work.attempt.part.name):
            work.attempt.lost = True
            self._then_always(lambda: self._lose(work))
            return
        if not work.begun and self._claims.has_twin(work.claim):
            # Whoever had nothing else to do has begun with what was only claimed ahead here.
            work.attempt.lost = True
            self._claims.leave(work.claim)
            self._then_always(lambda: self._close(work, "released"))
            return
        work.begun = True
        for sample_id, failure in batch.unreadable.items():
            self._note_failure(work, sample_id, failure)
        samples = self._sampled(batch) if any(batch.inputs) else []
        tasks = [lambda: self._append(work, samples, batch.begin + len(batch.inputs))]
        if batch.last:
            tasks.append(lambda: self._press.do(lambda: self._finish(work)))
        self._scribe.do(*tasks)

    def _sampled(self, batch: Batch) -> list[Sample]:
        """What the sampler makes of the inputs of one batch; failures are noted."""
        images = [None if given is None else given.image for given in batch.inputs]
        ids = batch.work.attempt.part.ids[batch.begin : batch.begin + len(images)]
        seeds = [sample_seed(self._recipe.seed, sample_id) for sample_id in ids]
        start = time.monotonic()
        try:
            made, failed = self._trial(images, seeds, [k for k, image in enumerate(images) if image is not None])
        except DeviceLost as error:
            self._give_up(batch.work, str(error), error)
        self._pace.append(time.monotonic() - start)
        self._feed.batch_seconds = statistics.median(self._pace)
        if made:
            self._failed_in_a_row, self._ever_made = 0, True
        for k, why in failed.items():
            failure = Failure("sampler", f"{type(why).__name__}: {why}", "".join(traceback.format_exception(why)))
            self._note_failure(batch.work, ids[k], failure)
            claim = batch.work.claim
            known = ids[k] in claim.failed_elsewhere
            # What failed on another host too says nothing against this one.
            self._failed_in_a_row += not known or (claim.second_try and not self._ever_made)
            if self._failed_in_a_row >= self._settings.give_up_after:
                told = f"{self._failed_in_a_row} samples in a row failed, the last with {failure.reason}"
                self._give_up(batch.work, told, why)
        return [given.result(views) for k, views in sorted(made.items()) if (given := batch.inputs[k]) is not None]

    def _append(self, work: Work, samples: list[Sample], done: int) -> None:
        if work.closed or work.attempt.complete:
            return
        with self._unless_published(work):
            work.attempt.append(samples)
            self._count(work.attempt.part.name, done)
        if not self._got_somewhere:
            self._got_somewhere = True
            self._events.write(PROGRESSED, worker=self._name)

    def _finish(self, work: Work) -> None:
        """Publish a slice whose batches were all tried, unless another host is to try a sample again."""
        if work.closed:
            return
        name, number = work.attempt.part.name, work.claim.lease.attempt
        alone = set(work.failures) - work.claim.failed_elsewhere
        if alone:
            self._suspects.add(name, work.failures)
            self._close(work, "released")
            return
        with self._unless_published(work):
            present = set(work.attempt.publish())
        if work.closed:
            return
        missing = [sample_id for sample_id in work.attempt.part.ids if sample_id not in present]
        seconds = time.monotonic() - work.started
        self._events.write("slice", worker=self._name, slice=name, samples=len(present), seconds=round(seconds, 3))
        # Last of what a full disk can refuse, since all of this is done again then, and the ledger tells of it once.
        self._ledger.published(name, number, len(present), missing, seconds)
        self._close(work, "published")
        self._count(name, self._sizes[name])
        self._clear(work)
        self._sheet.grow()

    @contextmanager
    def _unless_published(self, work: Work) -> Iterator[None]:
        """Whoever publishes a slice clears away what others wrote for it; an error of theirs then means nothing."""
        try:
            yield
        except Lost:
            self._lose(work)
        except Exception:
            if work.claim.lease.held() and not self._plan.is_published(work.attempt.part.name):
                raise
            self._lose(work)

    def _lose(self, work: Work) -> None:
        """Leave a slice that another worker has taken over or published."""
        if not work.closed:
            self._events.write(
                "slice_lost", worker=self._name, slice=work.attempt.part.name, attempt=work.claim.lease.attempt
            )
            self._close(work, "released")
            if self._plan.is_published(work.attempt.part.name):
                self._clear(work)
                work.claim.lease.forget()

    def _drop(self, work: Work) -> None:
        """Have a slice left as it is, behind what is still to be written of it."""
        self._then_always(lambda: self._close(work, "released"))

    def _then_always(self, task: Callable[[], None]) -> None:
        """Do ``task`` behind all rows and publications that are still to be written, and whatever becomes of them."""
        self._scribe.do(lambda: self._press.do(task, always=True), always=True)

    def _close(self, work: Work, state: Literal["released", "published"]) -> None:
        if not work.closed:
            work.closed = work.attempt.lost = True
            work.heartbeat.stop()
            work.attempt.close()
            work.claim.lease.end(state)
            self._claims.put_back(work.claim)
            if state == "published":
                self._feed.look()

    def _clear(self, work: Work) -> None:
        work.attempt.clear()
        self._suspects.clear(work.attempt.part.name)

    def _give_up(self, work: Work, told: str, error: Exception) -> NoReturn:
        name = work.attempt.part.name
        with suppress(OSError):
            self._ledger.gave_up(told, name, work.claim.lease.attempt)
            if work.failures:
                self._suspects.add(name, work.failures)
        raise SamplerBroken(told) from error

    def _note_failure(self, work: Work, sample_id: str, failure: Failure) -> None:
        work.failures[sample_id] = failure
        name, number = work.attempt.part.name, work.claim.lease.attempt
        self._scribe.do(lambda: self._ledger.failed(name, number, sample_id, failure))

    def _note_halved(self, length: int, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._scribe.do(lambda: self._ledger.halved(length, reason))
        _say(f"out of memory: from here on generate.batch={length} ({reason})")

    def _note_full(self, error: Exception) -> None:
        # The ledger lies on the disk that is full.
        _say(f"{error}; waiting for room for up to {FULL_DISK_SECONDS / 60:.0f} minutes")

    def _count(self, name: str, done: int) -> None:
        """Show that ``done`` samples of the slice ``name`` are done, by whomever."""
        with self._counting:
            self._progress.advance(max(0, done - self._counted.get(name, 0)))
            self._counted[name] = max(done, self._counted.get(name, 0))

    def _sweep(self) -> None:
        """Clear the leases, suspects and unfinished attempts of the slices that are published, as all are by now."""
        published = self._plan.published() & self._sizes.keys()
        for name in (lease.FOLDER, attempt.FOLDER, suspects.FOLDER):
            for path in (self._plan.folder / name).glob("*"):
                if path.name.lstrip(".").partition(".")[0].removesuffix(TWIN) in published:
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)


def _say(line: str) -> None:
    # The log may lie on a disk that is full.
    with suppress(OSError):
        print(one_line(line), file=sys.stderr, flush=True)
