"""`mvdiff clean [RUN]`: leftovers of runs, listed first and deleted only when told to."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.overview import Look, look_at, result_sets, runs_below
from jobs.parser import helped, named_run, parser
from jobs.runfolder import Run, short
from mvdiff.errors import InputError
from mvdiff.generate.asked import Asked
from mvdiff.generate.attempt import FOLDER as ATTEMPTS
from mvdiff.generate.lease import TWIN
from mvdiff.generate.plan import Plan
from mvdiff.train.checkpoint import CheckpointStore
from mvdiff.train.position import best_checkpoint

HELP = """\
mvdiff clean: leftovers of runs, listed first and deleted only when told to

usage: mvdiff clean [RUN] [--checkpoints] [--yes] [--json]

Without RUN, of every run below runs/. Leftovers are: copies of the code and submitit's pickles of jobs that have
ended; attempts at slices that are published or were attempted again since. Configurations, provenance, logs, events,
checkpoints and results stay. Nothing of a job that runs or waits is touched, nor what the queue may know while it does
not answer.

options
  --checkpoints  old checkpoints too: all but the newest good one, the best one, those that results were made with, and
                 those that a job which runs or waits was told to use
  --yes          delete what is listed
  --json         print one JSON object on standard output and nothing else there

exit status
  0 listed or deleted, 2 the request was wrong"""


_PICKLES = "submitit's pickles"


@dataclass(frozen=True)
class Leftover:
    """One file or folder that nothing needs any more."""

    path: Path
    what: str
    bytes: int
    """On disk."""

    def delete(self) -> None:
        """Remove it; what has gone by itself is no error."""
        if self.path.is_dir():
            # renamed first: what is cut short must not look like the whole
            doomed = self.path.with_name(f".{self.path.name}.part")
            with suppress(FileNotFoundError):
                self.path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def clean(words: Sequence[str]) -> int:
    """List or delete what the words name; returns the exit status.

    Raises:
        InputError: no such run.
    """
    if helped(words, HELP):
        return 0
    options = parser("clean")
    options.add_argument("run", nargs="?")
    for flag in ("--checkpoints", "--yes", "--json"):
        options.add_argument(flag, action="store_true")
    asked = options.parse_intermixed_args(words)
    root = Path("runs")
    if asked.run is None and not root.is_dir():
        raise InputError("there is no folder runs here", "go to where you submit from, or name a run")
    runs = [named_run(asked.run)] if asked.run else runs_below(root.absolute())
    neighbours = {run.path: run for one in runs for run in runs_below(one.path.parent)}
    seen = look_at(list(neighbours.values()))
    found = [one for run in runs for one in leftovers(run, seen)]
    if asked.checkpoints:
        named = _named_by_the_living(list(neighbours.values()), seen)
        found += [one for run in runs for one in old_checkpoints(run, seen, named)]
    if asked.yes:
        for one in found:
            one.delete()
    total = sum(one.bytes for one in found)
    if asked.json:
        listed = [{"path": str(one.path), "what": one.what, "bytes": one.bytes} for one in found]
        print(json.dumps({"job": "clean", "deleted": asked.yes, "bytes": total, "leftovers": listed}))
        return 0
    for (what, where), bytes_ in _gathered(found).items():
        print(f"{size(bytes_):>9}  {what:<20}  {short(where)}")
    if seen.silent:
        print(f"{seen.silent}: nothing of jobs that it may know is listed")
    if not found:
        print("nothing to clean")
    elif asked.yes:
        print(f"{size(total)} deleted")
    else:
        print(f"{size(total)} in all; delete it with --yes")
    return 0


def _gathered(found: Sequence[Leftover]) -> dict[tuple[str, Path], int]:
    """The bytes of each kind in each place; files of a kind count for the folder that they lie in."""
    told: dict[tuple[str, Path], int] = {}
    for one in found:
        key = (one.what, one.path.parent / "*.pkl" if one.what == _PICKLES else one.path)
        told[key] = told.get(key, 0) + one.bytes
    return told


def leftovers(run: Run, seen: Look) -> Iterator[Leftover]:
    """What the run's ended jobs have left that nothing needs any more."""
    folders = run.jobs()
    for folder in folders:
        # without a submission a command may be submitting at this moment
        if seen.submissions[folder.path] is None or seen.may_live(folder):
            continue
        if folder.code.is_dir():
            yield _leftover(folder.code, "code of an ended job")
        for pickle in sorted(folder.logs.glob("*.pkl")):
            yield _leftover(pickle, _PICKLES)
    works = any(seen.may_live(folder) for folder in folders if folder.job == "generate")
    for set_ in result_sets(run):
        yield from _superseded(set_, works)


def old_checkpoints(run: Run, seen: Look, named: str) -> Iterator[Leftover]:
    """Checkpoints of a run that is not being trained, of which none is the newest or best, or of use to anything.

    ``named`` is all that jobs which run or wait were told.
    """
    if any(seen.may_live(folder) for folder in run.jobs() if folder.job == "train"):
        return
    store = CheckpointStore(run.checkpoints)
    newest = store.newest_good()
    kept = {newest, best_checkpoint(store, run.validation)}
    for set_ in result_sets(run):
        asked = Asked.load(set_)
        kept.add(Path(asked.checkpoint) if asked else None)
    for path in map(store.path, store.steps() if newest else ()):
        if path not in kept and str(path) not in named:
            yield _leftover(path, "old checkpoint")


def _named_by_the_living(runs: Sequence[Run], seen: Look) -> str:
    living = [folder for run in runs for folder in run.jobs() if seen.may_live(folder)]
    return "\n".join((folder.path / "config.yaml").read_text(encoding="utf-8") for folder in living)


def _superseded(set_: Path, works: bool) -> Iterator[Leftover]:
    """Attempts at published slices, and all but the newest at others; the rows of that one are still of use.

    While a generation ``works`` on the set, its workers clear away what they have published, and copy from the others.
    """
    if works or not (set_ / ATTEMPTS).is_dir():
        return
    published = Plan.load(set_).published()
    newest: dict[str, int] = {}
    attempts = []
    for path in sorted((set_ / ATTEMPTS).iterdir()):
        name, _, number = path.name.rpartition(".")
        slice_ = name.removesuffix(TWIN)
        if number.isdigit():
            attempts.append((path, slice_, name, int(number)))
            newest[name] = max(newest.get(name, 0), int(number))
    for path, slice_, name, attempt in attempts:
        if slice_ in published or attempt < newest[name]:
            yield _leftover(path, "superseded attempt")


def _leftover(path: Path, what: str) -> Leftover:
    return Leftover(path, what, sum(_on_disk(one) for one in (path, *(path.rglob("*") if path.is_dir() else ()))))


def _on_disk(path: Path) -> int:
    with suppress(FileNotFoundError):
        return 512 * os.lstat(path).st_blocks
    return 0


def size(count: int) -> str:
    """Bytes as people read them: ``1.5 GB``."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
