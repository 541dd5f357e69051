"""`mvdiff status [RUN]`: where runs stand, and how far their training and generation are."""

import dataclasses
import json
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.overview import (
    Look,
    job_json,
    look_at,
    result_sets,
    runs_below,
    survey,
    time_left,
)
from jobs.parser import helped, named_run, parser
from jobs.runfolder import JobFolder, Run, short
from jobs.state import JobState
from mvdiff.errors import InputError, counted
from mvdiff.events import read_events
from mvdiff.generate.plan import Plan
from mvdiff.generate.sheet import sheet_path
from mvdiff.generate.status import Status as GenerationStatus
from mvdiff.generate.status import status as generation_status
from mvdiff.progress import duration
from mvdiff.train.status import Status as TrainingStatus
from mvdiff.train.status import status as training_status

HELP = """\
mvdiff status: where runs stand, and how far their training and generation are

usage: mvdiff status [RUN] [--watch] [--json]

RUN is a name below runs/, or the path of a run folder. Without it, or with a folder of runs, a line for every run: of
its jobs the one that runs or waits, or else the newest. With it, every job submitted for the run; of training the
newest step, loss and speed, the newest checkpoint, what validation found, and what is wrong with it; of every result
set the samples done, running, quarantined and missing, samples a second and time left, worker by worker, and its
contact sheet. Reads the run folders and asks the queue once; works whether anything runs or not, with or without
accounting. Where the queue does not answer within 5 seconds, a line says so (with --json, queue_silent) and the run
folders tell what they can.

states
  queued     waits, with the queue's reason       held     waits until somebody releases it
  running    works, with step or samples, speed and time left beside the job's time limit
  stalled    runs, but has left no sign of work for 15 minutes
  done  failed (with the error of the process that failed first)  cancelled
  suspended  by the queue                         unknown  the queue does not answer, or another machine would know
  gone       ended without a word, and the queue has forgotten it
  unsent     never came into a queue: the command was interrupted

options
  --watch     show it again every 3 seconds, until nothing runs or waits any more, or Ctrl-C
  --json      print one JSON object on standard output and nothing else there

exit status
  0 told, 2 the request was wrong"""

EVERY_S = 3.0
_ROOM = 40
"""Columns in which a sentence is still read easily."""


def status(words: Sequence[str]) -> int:
    """Print where the run that the words name stands, or every run; returns the exit status.

    Raises:
        InputError: no such run, or nothing was submitted for it.
    """
    if helped(words, HELP):
        return 0
    options = parser("status")
    options.add_argument("run", nargs="?")
    options.add_argument("--watch", action="store_true")
    options.add_argument("--json", action="store_true")
    asked = options.parse_intermixed_args(words)
    if asked.watch and asked.json:
        raise InputError("--watch and --json do not go together", "ask again and again with --json alone")
    root = _folder_of_runs(asked.run)
    if root is None:
        run = named_run(asked.run)
        if asked.json:
            print(json.dumps({"job": "status", **_detail_json(run)}))
        elif asked.watch:
            _watch(lambda width: _detail(run, width), newest_last=True)
        else:
            print("\n".join(_detail(run)[0]))
    elif asked.json:
        seen = look_at(runs := runs_below(root))
        states = [one.to_json() for one in survey(runs, seen)]
        print(json.dumps({"job": "status", "queue_silent": seen.silent, "runs": states}))
    elif asked.watch:
        _watch(lambda width: _table(root, width))
    else:
        print("\n".join(_table(root)[0]))
    return 0


def _folder_of_runs(word: str | None) -> Path | None:
    """The folder whose runs are meant; None where it is one run."""
    root = Path(word or "runs").expanduser().absolute()
    if word and ((root / "jobs").is_dir() or not root.is_dir() or not runs_below(root)):
        return None
    if not root.is_dir():
        raise InputError("there is no folder runs here", "go to where you submit from, or say mvdiff status FOLDER")
    return root


def _table(root: Path, width: int | None = None) -> tuple[list[str], bool]:
    """A line for every run below ``root``, or several within a ``width``, and whether any runs or waits."""
    now = time.time()
    seen = look_at(runs := runs_below(root))
    states = survey(runs, seen)
    if not states:
        return [f"nothing was submitted for a run in {short(root.absolute())}"], False
    rows = [(one.run.name, one.job.name, one.state, _ago(one.job, now), one.line(now)) for one in states]
    columns = [max(len(row[k]) for row in rows) for k in range(4)]
    lines: list[str] = []
    for row in rows:
        cells = [cell.ljust(column) for cell, column in zip(row, columns, strict=False)]
        lines += _row(cells, row[4], width)
    return [*lines, *_folded(_silence(seen), width)], any(one.job.alive for one in states)


def _row(cells: Sequence[str], told: str, width: int | None) -> list[str]:
    """A line of the table in lines that are no longer than ``width``."""
    head = "  ".join(cells)
    if width is None or len(head) + 2 + len(told) <= width:
        return [f"{head}  {told}".rstrip()]
    room = width - len(head) - 2
    if room >= _ROOM:
        first, *more = textwrap.wrap(told, room, break_on_hyphens=False)
        return [f"{head}  {first}", *(" " * (len(head) + 2) + part for part in more)]
    top = [head.rstrip()] if len(head) <= width else [cells[0].rstrip(), "  ".join(["", *cells[1:]]).rstrip()]
    below = [f"    {told}"] if told else []
    return [*_folded(top, width), *_folded(below, width, further=0)]


def _folded(lines: Sequence[str], width: int | None, further: int = 4) -> list[str]:
    """``lines`` in such as are no longer than ``width``, what is broken off that much ``further`` in."""
    if width is None:
        return list(lines)
    folded = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + further)
        folded += textwrap.wrap(line, max(width, 20), subsequent_indent=indent, break_on_hyphens=False)
    return folded


def _silence(seen: Look) -> list[str]:
    """The line for a queue that does not answer."""
    return [f"{seen.silent}: this is what the run folders say"] if seen.silent else []


def _ago(job: JobState, now: float) -> str:
    return duration(max(0.0, now - job.since)) if job.since else ""


def _detail(run: Run, width: int | None = None) -> tuple[list[str], bool]:
    """What is to be told of one run, in lines within a ``width`` if any, and whether any of its jobs runs or waits."""
    now = time.time()
    seen, folders = look_at([run]), run.jobs()
    states = [seen.judge(folder) for folder in folders]
    lines = []
    for state in states:
        ago = _ago(state, now)
        told_of = f"{state.state}{f' for {ago}' if ago and state.alive else f', {ago} ago' if ago else ''}"
        parts = [told_of, _ids(seen, run, state), state.why, state.members, state.starts.told]
        lines.append(f"{state.name:<16} {'; '.join(part for part in parts if part)}")
        if state.failure:
            lines.append(
                f"  rank {state.failure.rank} of job {state.failure.job_id} failed first: {state.failure.error}"
            )
            lines.append(f"  its log: {short(Path(state.failure.log))}")
    training = _training(folders)
    if training:
        newest = next(state for state in reversed(states) if state.name.endswith("-train"))
        # why it failed stands above already
        told = (dataclasses.replace(training, error=None) if newest.failure else training).lines()
        if newest.state == "running" and training.steps:
            told[0] = f"{told[0]}  {time_left(training, newest, now)}".rstrip()
        lines += [f"  {line}" for line in told]
    for set_, found in _results(run).items():
        lines.append(f"results {set_.name}: {Plan.recipe_of(set_).described()}")
        lines += [f"  {line}" for line in found.lines()]
        sheet = sheet_path(set_)
        if sheet:
            lines.append(f"  sheet: {short(sheet)}")
    report = run.report / "index.html"
    if report.exists():
        lines.append(f"report: {short(report)}")
    return _folded([*lines, *_silence(seen)], width), any(state.alive for state in states)


def _ids(seen: Look, run: Run, state: JobState) -> str:
    submission = seen.submissions[run.path / "jobs" / state.name]
    return f"job {submission.shown}" if submission else ""


def _detail_json(run: Run) -> dict[str, Any]:
    seen, folders = look_at([run]), run.jobs()
    states = [seen.judge(folder) for folder in folders]
    training = _training(folders)
    if training:
        told = {name: value for name, value in dataclasses.asdict(training).items() if name != "pace"}
    generated = {
        set_.name: dataclasses.asdict(found)
        | {"samples_per_second": found.samples_per_second, "eta_s": found.eta_seconds}
        for set_, found in _results(run).items()
    }
    return {
        "run": run.name,
        "queue_silent": seen.silent,
        "jobs": {state.name: state.words for state in states},
        "states": [job_json(state) for state in states],
        "train": told if training else None,
        "generate": generated,
    }


def _training(folders: Sequence[JobFolder]) -> TrainingStatus | None:
    trained = [folder for folder in folders if folder.job == "train"]
    if not trained:
        return None
    return training_status(event for folder in trained for event in read_events(folder.events))


def _results(run: Run) -> dict[Path, GenerationStatus]:
    return {folder: generation_status(folder) for folder in result_sets(run)}


def _fitting(lines: Sequence[str], room: int, newest_last: bool) -> Sequence[str]:
    """Of ``lines`` those that matter most, in so much ``room``, and how many are left out."""
    left = len(lines) - room + 1
    if left <= 1:
        return lines
    if newest_last:
        return [f"{counted(left, 'line')} above ...", *lines[left:]]
    return [*lines[: room - 1], f"... and {counted(left, 'more line')}"]


def _watch(look: Callable[[int | None], tuple[list[str], bool]], newest_last: bool = False) -> None:
    """Show what ``look`` tells, within so many columns where it goes to a terminal, until nothing runs or waits any
    more; Ctrl-C ends the watching and nothing else."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout)
    shown: list[str] = []
    try:
        if not console.is_terminal:
            alive = True
            while alive:
                lines, alive = look(None)
                print("\n".join(line for line in lines if line not in shown), flush=True)
                shown = lines
                if alive:
                    time.sleep(EVERY_S)
            return
        with Live(console=console, auto_refresh=False) as live:
            alive = True
            while alive:
                lines, alive = look(console.width)
                fitting = _fitting(lines, console.height - 1, newest_last)
                live.update(Text("\n".join(fitting), no_wrap=True, overflow="ellipsis"), refresh=True)
                if alive:
                    time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return
