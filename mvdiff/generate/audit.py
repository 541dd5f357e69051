"""What is wrong with a result set: every byte of its files read, and the files held against the plan."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mvdiff.errors import InputError
from mvdiff.generate.ledger import read_ledger
from mvdiff.generate.plan import Plan, Slice, slice_file
from mvdiff.generate.results import left_out
from mvdiff.shard import BadRow, ShardReader, each_shard, verify_shard


@dataclass(frozen=True)
class Flawed:
    """A published slice that is not perfect: damaged, or without a sample that nobody knows to have failed."""

    name: str
    """The slice's name, as in ``Plan.sizes``."""
    path: Path
    """Its result shard."""
    bad: list[BadRow]
    """What is damaged in it, or does not belong there."""
    good: list[int]
    """Rows that are whole and were planned in this slice: what a repair may keep. Empty where it cannot be opened."""
    lost: list[str]
    """Samples that were planned in it, did not fail, and are good neither here nor in another slice."""


@dataclass(frozen=True)
class Audit:
    """What ``audit`` found: ``samples = good + len(quarantined) + len(missing)``."""

    samples: int
    """Number of different samples planned."""
    good: int
    """Samples with a whole result."""
    missing: list[str]
    """Samples without one that did not fail: not generated yet, lost or damaged. In the plan's order."""
    quarantined: dict[str, str]
    """Why each sample failed that its published slice had to leave out. They are not missing."""
    flawed: list[Flawed]
    """The published slices that need repair."""
    files: int
    bytes: int
    """What was read."""

    @property
    def bad(self) -> list[BadRow]:
        """All that is damaged, file by file."""
        return [row for one in self.flawed for row in one.bad]


def audit(folder: Path) -> Audit:
    """Read every byte of the result set ``folder`` and hold its files against its plan, showing progress.

    The files decide: the ledger is only asked why a sample is not there. Raises ``InputError`` when ``folder`` is no
    result set or its plan is damaged.
    """
    plan = Plan.load(folder)
    published = plan.published()
    paths = [folder / slice_file(name) for name in plan.sizes() if name in published]
    size = sum(path.stat().st_size for path in paths)
    looked = iter(each_shard(paths, f"verify {folder}", lambda path, advance: _look(path, plan.recipe.set_id, advance)))
    failures = _Failures(folder)
    found: list[Flawed] = []
    good: set[str] = set()
    reasons: dict[str, str | None] = {}
    """Of samples planned: why the last slice with it had to leave it out; None where there is no reason."""
    for part in plan:
        if part.name not in published:
            reasons.update(dict.fromkeys(part.ids))
            continue
        ids, bad = next(looked)
        one, failed = _hold(part, folder / part.file_name, ids, bad, failures)
        good.update(ids[row] for row in one.good)
        reasons.update(dict.fromkeys(part.ids))
        reasons.update(failed)
        if one.bad or one.lost:
            found.append(one)
    flawed = [replace(one, lost=[sample_id for sample_id in one.lost if sample_id not in good]) for one in found]
    left = {sample_id: why for sample_id, why in reasons.items() if sample_id not in good}
    return Audit(
        len(reasons),
        len(good),
        [sample_id for sample_id, why in left.items() if why is None],
        {sample_id: why for sample_id, why in left.items() if why is not None},
        [one for one in flawed if one.bad or one.lost],
        len(paths),
        size,
    )


class _Failures:
    """What the ledger of the result set ``folder`` says about samples that are not in their slices."""

    def __init__(self, folder: Path) -> None:
        lines = list(read_ledger(folder))
        self._left_out = {name: frozenset(missing) for name, missing in left_out(lines).items()}
        self._reasons = {
            (line["slice"], line["sample_id"]): str(line["reason"]) for line in lines if line["kind"] == "failed"
        }

    def reason(self, name: str, sample_id: str) -> str | None:
        """Why the published slice ``name`` had to leave the sample out; None if nobody says that it had to."""
        reason = self._reasons.get((name, sample_id))
        if name not in self._left_out:
            return reason
        # A sample may fail in one attempt and not in the next.
        return (reason or "the worker's ledger is lost") if sample_id in self._left_out[name] else None


def _look(path: Path, set_id: str, advance: Callable[[int], None]) -> tuple[list[str], list[BadRow]]:
    """The ids in a file, row by row, and what is damaged in it; none where it cannot be opened or is of another set."""
    bad = verify_shard(path, advance)
    try:
        with ShardReader(path) as reader:
            made_for = reader.attributes.get("result_set")
            if made_for == set_id:
                return reader.ids(), bad
            return [], [*bad, BadRow(path, -1, "", f"holds results of the set {made_for!r}, and this is {set_id}")]
    except InputError as error:
        return [], bad or [BadRow(path, -1, "", error.what)]


def _hold(
    part: Slice, path: Path, ids: list[str], bad: list[BadRow], failures: _Failures
) -> tuple[Flawed, dict[str, str]]:
    """The rows ``ids`` of the file at ``path`` held against the slice it is for; why samples are not in it."""
    damaged = {row.row for row in bad}
    planned = set(part.ids)
    good: dict[str, int] = {}
    strange: list[BadRow] = []
    for row, sample_id in enumerate(ids):
        if sample_id not in planned:
            strange.append(BadRow(path, row, sample_id, "it was not planned in this slice"))
        elif row not in damaged:
            good.setdefault(sample_id, row)
    there = set(ids)
    lacking = [sample_id for sample_id in part.ids if sample_id not in good]
    reasons = {
        sample_id: why
        for sample_id in lacking
        if sample_id not in there and (why := failures.reason(part.name, sample_id)) is not None
    }
    lost = [sample_id for sample_id in lacking if sample_id not in reasons]
    return Flawed(part.name, path, [*bad, *strange], list(good.values()), lost), reasons
