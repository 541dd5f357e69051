"""One worker: claims slices, samples them batch by batch, publishes them, until nothing is left.

Its files in the set's folder: ``leases/SLICE.ATTEMPT``; ``attempts/SLICE.ATTEMPT/`` with the rows of an unfinished
attempt, written by that attempt alone; ``slice-SLICE.h5``, the published result; ``ledger/WORKER.NONCE.jsonl``.
``leases`` and ``attempts`` are swept when all is published.
"""

import random
import shutil
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvdiff.durable import link_new, sync_folder
from mvdiff.events import EventLog
from mvdiff.generate.inputs import InputReader, Unreadable
from mvdiff.generate.lease import Heartbeat, Lease, LeaseBook
from mvdiff.generate.ledger import Ledger
from mvdiff.generate.owner import Owner
from mvdiff.generate.plan import Plan, Slice
from mvdiff.generate.settings import GenerateSettings, sample_seed
from mvdiff.generate.status import LEASES
from mvdiff.progress import Progress
from mvdiff.shard import Sample, ShardReader, ShardWriter, verify_shard

ATTEMPTS = "attempts"

Sampler = Callable[[NDArray[np.uint8], list[int]], NDArray[np.uint8]]
"""``sampler(images uint8[B H W 3], seeds)`` -> uint8[B 6 size size 3]. View ``k`` is seen by the rig's ``k``-th
camera, ``images`` by the reference view's. What a sample becomes depends on its own image and seed alone."""


class SamplerBroken(Exception):
    """Sample after sample failed in the sampler: the fault lies with this worker or its node, not with the samples."""


class _Lost(Exception):
    """Another worker has taken the slice over, or has published it."""


def run_worker(
    folder: Path,
    sampler: Sampler,
    name: str,
    should_stop: Callable[[], bool],
    *,
    settings: GenerateSettings,
    events: EventLog,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Literal["done", "stopped"]:
    """Work on the result set ``folder`` as the worker called ``name`` (unique among those that run).

    Returns ``"done"`` when every slice is published, by whomever, and ``"stopped"`` soon after ``should_stop()`` turns
    true: it is asked between batches and while waiting; the batch in hand is kept for whoever takes the slice next.

    Of ``settings`` only lease, heartbeat, poll and give_up_after are used; what decides the outputs comes from the
    plan. Raises ``SamplerBroken`` when ``give_up_after`` samples in a row failed in the sampler, and ``InputError`` for
    a damaged plan.
    """
    return _Worker(folder, sampler, name, should_stop, settings, events, clock, sleep).run()


class _Worker:
    def __init__(
        self,
        folder: Path,
        sampler: Sampler,
        name: str,
        should_stop: Callable[[], bool],
        settings: GenerateSettings,
        events: EventLog,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._plan = Plan.load(folder)
        self._recipe = self._plan.recipe
        self._sampler, self._name, self._should_stop, self._settings = sampler, name, should_stop, settings
        self._events, self._clock, self._sleep = events, clock, sleep
        owner = Owner.here(name)
        self._ledger = Ledger(folder, owner)
        self._leases = LeaseBook(folder / LEASES, owner, settings.lease_seconds, clock)
        self._inputs = InputReader()
        self._failed_in_a_row = 0
        self._sizes = self._plan.sizes()
        self._counted: dict[str, int] = {}
        published = self._plan.published()
        # Each worker starts elsewhere in the plan, so that many of them starting at once do not queue for one name.
        self._open = deque((k, slice_) for k, slice_ in enumerate(self._sizes) if slice_ not in published)
        self._open.rotate(-random.Random(name).randrange(len(self._open) or 1))

    def run(self) -> Literal["done", "stopped"]:
        total = sum(self._sizes[name] for _, name in self._open)
        pause = self._settings.poll_seconds / 16
        with Progress("all workers together", total) as progress:
            self._progress = progress
            while not self._should_stop():
                lease = self._claim()
                if lease is not None:
                    pause = self._settings.poll_seconds / 16
                    self._work(self._plan.slice_at(self._open[0][0]), lease)
                elif not self._open:
                    self._sweep()
                    self._events.write("done", worker=self._name)
                    return "done"
                else:
                    self._sleep(pause)
                    pause = min(2 * pause, self._settings.poll_seconds)
        self._events.write("stopped", worker=self._name)
        return "stopped"

    def _claim(self) -> Lease | None:
        """A lease on the slice at the head of ``_open``; None when those left are all held by others."""
        for _ in range(len(self._open)):
            name = self._open[0][1]
            lease = None if self._is_published(name) else self._leases.claim(name)
            if self._is_published(name):
                if lease is not None:
                    lease.end("published")
                self._open.popleft()
                self._count(name, self._sizes[name])
            elif lease is not None:
                return lease
            else:
                self._open.rotate(-1)
        return None

    def _is_published(self, name: str) -> bool:
        return (self._plan.folder / f"slice-{name}.h5").exists()

    def _work(self, part: Slice, lease: Lease) -> None:
        """Generate and publish ``part``, or as much of it as comes before a stop."""
        start = self._clock()
        state: Literal["released", "published"] = "released"
        try:
            with Heartbeat(lease, self._settings.heartbeat_seconds):
                attempt = self._attempt_shard(part, lease)
                if attempt is None:
                    return
                with ShardReader(attempt) as reader:
                    rows = reader.ids()
                if not lease.held() or not link_new(attempt, self._plan.folder / part.file_name):
                    raise _Lost
                sync_folder(self._plan.folder)
                state = "published"
        except _Lost:
            self._events.write("slice_lost", worker=self._name, slice=part.name, attempt=lease.attempt)
            return
        except Exception:
            # Whoever publishes a slice clears away what others wrote for it; an error of theirs then means nothing.
            if self._is_published(part.name):
                return
            raise
        finally:
            lease.end(state)
        present = set(rows)
        missing = [sample_id for sample_id in part.ids if sample_id not in present]
        seconds = self._clock() - start
        self._ledger.published(part.name, lease.attempt, len(rows), missing, seconds)
        self._events.write("slice", worker=self._name, slice=part.name, samples=len(rows), seconds=round(seconds, 3))
        for number in range(1, lease.attempt + 1):
            shutil.rmtree(self._plan.folder / ATTEMPTS / f"{part.name}.{number}", ignore_errors=True)

    def _attempt_shard(self, part: Slice, lease: Lease) -> Path | None:
        """This attempt's own finished shard of ``part``, not yet under its public name; None after a stop."""
        path = self._adopt(part, lease)
        if path.exists() and not verify_shard(path):
            return path
        path.unlink(missing_ok=True)
        size = self._recipe.size
        with ShardWriter(
            path, size=size, rig=self._recipe.rig, codec=part.codec, with_alpha=False,
            attributes=self._recipe.attributes(),
        ) as writer:  # fmt: skip
            present = writer.ids()
            places = {sample_id: k for k, sample_id in enumerate(part.ids)}
            batch = self._recipe.batch
            last = places[present[-1]] if present else -1
            first = (last + 1) // batch * batch
            for begin in range(first, len(part), batch):
                if self._should_stop():
                    return None
                if not lease.held():
                    raise _Lost
                members = range(begin, min(begin + batch, len(part)))
                for sample in self._generate(part, lease, members):
                    if sample.sample_id not in present:
                        writer.append(sample)
                self._count(part.name, members.stop)
            return writer.publish()

    def _adopt(self, part: Slice, lease: Lease) -> Path:
        """Where this attempt writes, with a copy of what the attempt before it left there.

        A copy, since that attempt's writer may still be alive, only slow: two writers never share a file. Its last row
        may be torn in the copy; the shard writer checks every row and cuts off what is not whole.
        """
        attempts = self._plan.folder / ATTEMPTS
        own = attempts / f"{part.name}.{lease.attempt}"
        for attempt in range(lease.attempt - 1, 0, -1):
            before = attempts / f"{part.name}.{attempt}"
            partial = attempts / f".{own.name}.copy"
            # Its writer may rename files while they are copied: what cannot be copied whole is made again.
            with suppress(OSError):
                shutil.copytree(before, partial)
                partial.rename(own)
                break
            shutil.rmtree(partial, ignore_errors=True)
        own.mkdir(parents=True, exist_ok=True)
        return own / "result"

    def _generate(self, part: Slice, lease: Lease, members: range) -> list[Sample]:
        """The generated samples of one batch, less those that fail; every failure goes to the ledger."""
        inputs: list[Sample] = []
        for k in members:
            try:
                inputs.append(self._inputs.read(part.shards[k], part.rows[k], part.ids[k], part.checksums[k]))
            except Unreadable as error:
                self._ledger.failed(part.name, lease.attempt, part.ids[k], "input", str(error))
                self._events.write("failed", worker=self._name, sample_id=part.ids[k], reason=str(error))
        return self._sample(part, lease, inputs) if inputs else []

    def _sample(self, part: Slice, lease: Lease, inputs: Sequence[Sample]) -> list[Sample]:
        """Sample ``inputs`` together; after a failure by halves, down to the samples that fail alone."""
        images = np.stack([sample.views[self._recipe.reference_view] for sample in inputs])
        seeds = [sample_seed(self._recipe.seed, sample.sample_id) for sample in inputs]
        try:
            generated = self._sampler(images, seeds)
            self._check_output(generated, len(inputs))
        except Exception as error:
            if len(inputs) == 1:
                self._note_failure(part, lease, inputs[0].sample_id, error)
                return []
        else:
            self._failed_in_a_row = 0
            return [_result(sample, views) for sample, views in zip(inputs, generated, strict=True)]
        # Out here, where nothing holds the failed call's frames and their memory any more.
        half = len(inputs) // 2
        return self._sample(part, lease, inputs[:half]) + self._sample(part, lease, inputs[half:])

    def _note_failure(self, part: Slice, lease: Lease, sample_id: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        self._ledger.failed(part.name, lease.attempt, sample_id, "sampler", reason, trace)
        self._events.write("failed", worker=self._name, sample_id=sample_id, reason=reason)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._settings.give_up_after:
            self._ledger.gave_up(part.name, lease.attempt, reason)
            raise SamplerBroken(f"{self._failed_in_a_row} samples in a row failed, the last with {reason}") from error

    def _check_output(self, generated: NDArray[np.uint8], count: int) -> None:
        size = self._recipe.size
        if generated.dtype != np.uint8 or generated.shape != (count, 6, size, size, 3):
            raise ValueError(
                f"the sampler returned {generated.dtype} {list(generated.shape)} for {count} samples of size {size}"
            )

    def _count(self, name: str, done: int) -> None:
        """Show that ``done`` samples of the slice ``name`` are done, by whomever."""
        self._progress.advance(max(0, done - self._counted.get(name, 0)))
        self._counted[name] = max(done, self._counted.get(name, 0))

    def _sweep(self) -> None:
        """Clear the leases and unfinished attempts of this plan's slices, all published by now."""
        for path in (*(self._plan.folder / LEASES).iterdir(), *(self._plan.folder / ATTEMPTS).glob("*")):
            if path.name.lstrip(".").partition(".")[0] in self._sizes:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _result(sample: Sample, generated: NDArray[np.uint8]) -> Sample:
    """The generated views uint8 [6 H W 3] as a sample seen by the input's cameras, whatever its size was."""
    scale = np.array([generated.shape[1] / sample.size] * 2 + [1.0], np.float32)
    return Sample(
        sample.sample_id,
        sample.recording,
        generated,
        None,
        sample.w2c,
        sample.intrinsics * scale[:, None],
        sample.azimuth,
        sample.elevation,
    )
