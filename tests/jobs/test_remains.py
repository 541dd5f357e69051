"""What `mvdiff retry` would submit, of runs as their submissions have left them."""

import json
from pathlib import Path

import pytest

from jobs.overview import look_at
from jobs.parser import named_job
from jobs.remains import remains
from jobs.runfolder import Run
from mvdiff.errors import InputError
from mvdiff.events import EventLog
from slurm.sbatch import Before
from tests.jobs.test_overview import queue, squeue_line, submit  # noqa: F401


@pytest.fixture
def lab(tmp_path, queue):  # noqa: F811
    return Made(tmp_path / "runs" / "lab", queue)


class Made:
    """A run whose jobs are made one by one, and what is left of it to do."""

    def __init__(self, path: Path, asked) -> None:
        self.run, self.queue = Run(path), asked

    def job(self, job: str, after: str | None = None, ended: str | None = "failed", where: str = "/") -> None:
        """One more; it ``ended`` done, failed, or runs (None). Its job has its number for an id."""
        number = len(self.run.jobs()) + 1
        before = None if after is None else self.run.path / "jobs" / after
        folder = submit(self.run.path.parent, "lab", job, [str(number)], number, before)
        told = {"overrides": [f"word={number}"], "working_directory": where}
        (folder / "provenance.json").write_text(json.dumps(told))
        (folder / "logs" / f"began-{number}-0").touch()
        if ended:
            EventLog(folder / "events" / f"{number}-0.jsonl").write(
                f"task {'finished' if ended == 'done' else 'failed'}", rank=0, job_id=str(number), error="no"
            )

    def runs(self, *ids: str) -> None:
        self.queue.answers(*(squeue_line(id_, "RUNNING") for id_ in ids))

    def left(self, chosen: str | None = None):
        found = remains(self.run, look_at([self.run]), named_job(self.run, chosen) if chosen else None)
        return [one.name for one in found.jobs], found


def test_two_generations_of_a_chain_are_both_done_once_more(lab):
    lab.job("train", ended="done")
    lab.job("generate", "001-train")
    lab.job("generate", "002-generate")
    lab.job("evaluate", "003-generate")
    names, found = lab.left()
    assert names == ["002-generate", "003-generate", "004-evaluate"]
    assert [one.words for one in found.jobs] == [["word=2"], ["word=3"], ["word=4"]] and found.ahead is None
    assert lab.left("generate")[0] == ["003-generate"]


def test_what_followed_a_job_follows_the_one_that_took_its_place(lab):
    lab.job("train", ended="done")
    lab.job("generate", "001-train")
    lab.job("evaluate", "002-generate")
    lab.job("generate", ended=None)
    lab.runs("4")
    names, found = lab.left()
    assert names == ["003-evaluate"]
    assert [folder.path.name for folder in found.ahead.folders] == ["004-generate"]
    assert found.ahead.after == [Before(["4"], well=False)]


def test_of_two_that_followed_the_same_job_the_newer_counts(lab):
    lab.job("generate")
    lab.job("evaluate", "001-generate")
    lab.job("evaluate", "001-generate")
    assert lab.left()[0] == ["001-generate", "003-evaluate"]


def test_behind_jobs_that_run_it_waits_for_all_of_them(lab):
    lab.job("train", ended=None)
    lab.job("generate", "001-train", ended=None)
    lab.job("evaluate", "002-generate")
    lab.runs("1", "2")
    names, found = lab.left()
    assert names == ["003-evaluate"]
    assert found.ahead.after == [Before(["1"], well=True), Before(["2"], well=False)]


def test_a_job_that_still_stands_behind_a_failed_one_is_in_the_way(lab):
    lab.job("train")
    lab.job("generate", "001-train", ended=None)
    lab.runs("2")
    with pytest.raises(InputError, match="002-generate is running: wait for it, or end it first: mvdiff cancel lab"):
        lab.left()


def test_jobs_of_different_commands_do_not_follow_one_another(lab):
    lab.job("train")
    lab.job("evaluate")
    names, found = lab.left()
    assert names == ["001-train"] and found.others == ["002-evaluate"]


def test_a_queue_that_says_nothing_is_not_taken_for_jobs_that_run(lab):
    lab.job("generate", ended=None)
    lab.job("evaluate", "001-generate", ended=None)
    (lab.run.path / "jobs" / "002-evaluate" / "logs" / "cancelled-2-0").touch()
    lab.queue.falls_silent()
    with pytest.raises(InputError, match="001-generate is unknown"):
        lab.left()


def test_nothing_is_queued_behind_a_job_that_was_cancelled_and_still_saves(lab):
    lab.job("train", ended=None)
    lab.job("generate", "001-train")
    lab.runs("1")
    assert lab.left()[0] == ["002-generate"]
    (lab.run.path / "jobs" / "001-train" / "logs" / "cancelled-1-0").touch()
    with pytest.raises(
        InputError, match="001-train is running, cancelled: it saves what it has, and ends: wait for it"
    ):
        lab.left()
