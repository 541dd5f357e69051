"""How far a result set is, from its files."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.generate.lease import LeaseBook
from mvdiff.generate.ledger import read_ledger
from mvdiff.generate.owner import Owner
from mvdiff.generate.plan import Plan, Slice
from mvdiff.shard import ShardReader

LEASES = "leases"


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
    workers: dict[str, int]
    """Samples that each worker published."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done + self.quarantined == self.samples


def status(folder: Path) -> Status:
    """Count what the result set ``folder`` holds; ``InputError`` if it is none or its plan is damaged."""
    plan = Plan.load(folder)
    lines = list(read_ledger(folder))
    published = plan.published()
    reasons = _left_out(plan, lines)
    leases = LeaseBook(folder / LEASES, Owner.here("status"), lease_seconds=0)
    running = missing = 0
    for name, size in plan.sizes().items():
        if name in published:
            continue
        if leases.is_live(name):
            running += size
        else:
            missing += size
    workers: Counter[str] = Counter()
    for line in lines:
        if line["kind"] == "published":
            workers[line["worker"]] += line["rows"]
    done = plan.samples - len(reasons) - running - missing
    return Status(plan.samples, done, len(reasons), running, missing, reasons, dict(workers))


def quarantined(plan: Plan) -> dict[str, str]:
    """The samples that published slices lack and no later segment plans again, each with the reason."""
    return _left_out(plan, list(read_ledger(plan.folder)))


def _left_out(plan: Plan, lines: list[dict[str, Any]]) -> dict[str, str]:
    missing = {line["slice"]: line["missing"] for line in lines if line["kind"] == "published"}
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
                missing[name] = _lacking(plan.folder, segment.slice_at(number))
            ids.update(dict.fromkeys(missing[name]))
    return {sample_id: reasons.get(sample_id, "the worker's ledger is lost") for sample_id in ids}


def _lacking(folder: Path, part: Slice) -> list[str]:
    """What the published shard of ``part`` lacks, from the file: its worker died before it could say so."""
    with ShardReader(folder / part.file_name) as reader:
        rows = set(reader.ids())
    return [sample_id for sample_id in part.ids if sample_id not in rows]
