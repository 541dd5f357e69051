"""How far a result set is, how fast it grows and by whom, from its files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.errors import counted, one_line
from mvdiff.generate.lease import FOLDER, TWIN, LeaseBook
from mvdiff.generate.ledger import read_ledger
from mvdiff.generate.owner import Owner
from mvdiff.generate.plan import Plan
from mvdiff.generate.results import lacking, left_out
from mvdiff.progress import duration

_SHOWN = 10


@dataclass(frozen=True)
class WorkerStatus:
    """One worker, over all its starts."""

    name: str
    host: str
    published: int
    """Samples in slices that it published."""
    in_hand: int
    """Samples that it made in the slices it holds; 0 for one that holds none."""
    slices: list[str]
    """The slices that it holds."""
    samples_per_second: float | None
    """Over its newest start; None before anything was made."""

    @property
    def running(self) -> bool:
        """Whether it holds a slice."""
        return bool(self.slices)


@dataclass(frozen=True)
class Status:
    """Counts of samples: ``samples = done + quarantined + running + missing``."""

    samples: int
    done: int
    """In a published slice."""
    quarantined: int
    """Left out of a published slice, and not planned again."""
    running: int
    """In a slice that somebody holds."""
    missing: int
    reasons: dict[str, str]
    """Why each quarantined sample was left out."""
    workers: list[WorkerStatus]
    """Those that hold a slice first."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done + self.quarantined == self.samples

    @property
    def samples_per_second(self) -> float:
        """Of all workers that hold a slice, together."""
        return sum(worker.samples_per_second or 0.0 for worker in self.workers if worker.running)

    @property
    def eta_seconds(self) -> float | None:
        """Until all is done at that speed; None where nothing moves."""
        left = self.running + self.missing - sum(worker.in_hand for worker in self.workers)
        return max(left, 0) / self.samples_per_second if self.samples_per_second and not self.finished else None

    def lines(self) -> list[str]:
        """The same for a person: all in one line, then the workers that hold a slice, then what was left out."""
        share = self.done / self.samples if self.samples else 1.0
        counts = (
            f"{self.done} of {counted(self.samples, 'sample')} done ({share:.0%}), {self.running} running, "
            f"{self.quarantined} quarantined, {self.missing} missing"
        )
        speed = f"; {self.samples_per_second:.2f} samples/s" if self.samples_per_second else ""
        eta = self.eta_seconds
        told = [counts + speed + (f", {duration(eta)} left" if eta is not None else "")]
        for worker in self.workers:
            if worker.running:
                at = f"{worker.samples_per_second:.2f} samples/s" if worker.samples_per_second else "no slice done yet"
                told.append(
                    f"worker {worker.name} on {worker.host}: {worker.published} done, {worker.in_hand} in hand, {at}"
                )
        for sample_id, reason in list(self.reasons.items())[:_SHOWN]:
            told.append(one_line(f"quarantined: {sample_id[:200]!r}: {reason}"))
        if len(self.reasons) > _SHOWN:
            told.append(f"... and {len(self.reasons) - _SHOWN} more; all with their tracebacks in ledger/")
        return told


def status(folder: Path) -> Status:
    """Count what the result set ``folder`` holds; ``InputError`` if it is none or its plan is damaged."""
    plan = Plan.load(folder)
    lines = list(read_ledger(folder))
    published = plan.published()
    reasons = _left_out(plan, lines)
    leases = LeaseBook(folder / FOLDER, Owner.here("status"), lease_seconds=math.inf)
    open_slices = {name: size for name, size in plan.sizes().items() if name not in published}
    holders = {
        name: [holder for one in (name, name + TWIN) if (holder := leases.holder(one)) is not None]
        for name in _leased(folder)
        if name in open_slices
    }
    running = sum(open_slices[name] for name, of_slice in holders.items() if of_slice)
    missing = sum(open_slices.values()) - running
    done = plan.samples - len(reasons) - running - missing
    return Status(plan.samples, done, len(reasons), running, missing, reasons, _workers(lines, holders))


def quarantined(plan: Plan) -> dict[str, str]:
    """The samples that published slices lack and no later segment plans again, each with the reason."""
    return _left_out(plan, list(read_ledger(plan.folder)))


def _leased(folder: Path) -> set[str]:
    """Names of the slices that anybody ever claimed."""
    paths = (folder / FOLDER).glob("*") if (folder / FOLDER).is_dir() else ()
    return {path.name.partition(".")[0].removesuffix(TWIN) for path in paths if not path.name.startswith(".")}


def _workers(lines: list[dict[str, Any]], holders: dict[str, list[dict[str, Any]]]) -> list[WorkerStatus]:
    names = {line["worker"] for line in lines}
    held: dict[str, dict[str, int]] = {}
    for name, of_slice in holders.items():
        for holder in of_slice:
            owner = holder.get("owner", {})
            held.setdefault(owner.get("worker", "?"), {})[name] = int(holder.get("done", 0))
    workers = []
    for worker in names | set(held):
        own = sorted((line for line in lines if line["worker"] == worker), key=lambda line: line["time"])
        published = sum(line["rows"] for line in own if line["kind"] == "published")
        slices = held.get(worker, {})
        host = own[-1]["host"] if own else "?"
        workers.append(WorkerStatus(worker, host, published, sum(slices.values()), sorted(slices), _speed(own)))
    return sorted(workers, key=lambda worker: (not worker.running, worker.name))


def _speed(own: list[dict[str, Any]]) -> float | None:
    """Samples a second of a worker's newest start, from its lines in the order of time."""
    begins = [k for k, line in enumerate(own) if line["kind"] == "began"]
    if not begins:
        return None
    newest = own[begins[-1] :]
    made = [line for line in newest if line["kind"] == "published"]
    if not made:
        return None
    seconds = made[-1]["time"] - newest[0]["time"]
    return sum(line["rows"] for line in made) / max(seconds, 1e-3)


def _left_out(plan: Plan, lines: list[dict[str, Any]]) -> dict[str, str]:
    missing = left_out(lines)
    reasons = {line["sample_id"]: line["reason"] for line in lines if line["kind"] == "failed"}
    published = plan.published()
    ids: dict[str, None] = {}
    for segment in plan.segments:
        if segment.retried:
            for sample_id in segment.ids:
                ids.pop(sample_id, None)
        for number in range(len(segment)):
            name = segment.name_at(number)
            if name not in published:
                continue
            if name not in missing:
                part = segment.slice_at(number)
                missing[name] = lacking(plan.folder / part.file_name, part.ids)
            ids.update(dict.fromkeys(missing[name]))
    return {sample_id: reasons.get(sample_id, "the worker's ledger is lost") for sample_id in ids}
