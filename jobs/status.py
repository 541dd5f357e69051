"""`mvdiff status RUN`: how far a run's training and generation are, and what the queue says of its jobs."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from jobs.runfolder import JobFolder, Run, short
from mvdiff.errors import InputError
from mvdiff.events import read_events
from mvdiff.generate.plan import SET_FILE, Plan
from mvdiff.generate.sheet import sheet_path
from mvdiff.generate.status import status as generation_status
from mvdiff.train.status import status as training_status
from slurm.errors import RequestError
from slurm.submission import states

HELP = """\
mvdiff status: where a run's jobs are, and how far its training and generation are

usage: mvdiff status RUN [--json]

RUN is a name below runs/, or the path of a run folder. Prints the queue's word for every job submitted for the run, and
of training the newest step, loss and speed, the newest checkpoint, what validation found, and what is wrong with it; of
every result set the samples done, running, quarantined and missing, samples a second and time left, worker by worker,
and where its contact sheet lies. Reads the run folder and asks the queue; works whether anything runs or not.

exit status
  0 told, 2 the request was wrong"""


def status(words: Sequence[str]) -> int:
    """Print where the run named by the one word stands; returns the exit status.

    Raises:
        InputError: no such run, or nothing was submitted for it.
    """
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if len(words) != 1 or words[0].startswith("-"):
        raise InputError(f"status takes one run, not {' '.join(words) or 'none'}", "say mvdiff status NAME")
    named = Path(words[0].removeprefix("run="))
    run = Run.named(str(named.parent if len(named.parts) > 1 else "runs"), named.name)
    folders = run.jobs()
    if not folders:
        raise InputError(f"nothing was submitted for a run in {run.path}", "see what there is: ls runs")
    jobs = {folder.path.name: _queue(folder) for folder in folders}
    trained = [folder for folder in folders if folder.job == "train"]
    now = training_status(event for folder in trained for event in read_events(folder.events))
    sets = {folder.name: generation_status(folder) for folder in _result_sets(run)}
    if as_json:
        training = dataclasses.asdict(now) if trained else None
        generated = {
            name: dataclasses.asdict(of_set)
            | {"samples_per_second": of_set.samples_per_second, "eta_s": of_set.eta_seconds}
            for name, of_set in sets.items()
        }
        print(json.dumps({"job": "status", "run": run.name, "jobs": jobs, "train": training, "generate": generated}))
        return 0
    for name, words_of in jobs.items():
        print(f"{name:<16} {', '.join(f'{id_} {word}' for id_, word in words_of.items())}")
    for line in now.lines() if trained else ():
        print(f"  {line}")
    for name, of_set in sets.items():
        print(f"results {name}: {Plan.recipe_of(run.results / name).described()}")
        for line in of_set.lines():
            print(f"  {line}")
        sheet = sheet_path(run.results / name)
        if sheet:
            print(f"  sheet: {short(sheet)}")
    return 0


def _result_sets(run: Run) -> list[Path]:
    """Every result set of the run, the one that was asked for last first."""
    folders = [path.parent for path in run.results.glob(f"*/{SET_FILE}")]
    return sorted(folders, key=lambda folder: max(path.stat().st_mtime for path in folder.glob("*.json")), reverse=True)


def _queue(folder: JobFolder) -> dict[str, str]:
    """The queue's word for each job of a submission."""
    submission = folder.submission()
    if submission is None:
        return {}
    try:
        return {id_: state.word for id_, state in states(submission).items()}
    except RequestError:
        return dict.fromkeys(submission.job_ids, "UNKNOWN (the queue does not answer)")
