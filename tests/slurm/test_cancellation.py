"""What is left behind when a queue is asked to end jobs; scancel is replaced."""

from pathlib import Path

import pytest

from slurm import patience
from slurm.cancellation import cancel_jobs
from slurm.errors import RequestError, Unanswered
from slurm.submission import Submission


@pytest.fixture
def submission(tmp_path, monkeypatch):
    for name in ("bin", "logs"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.1)
    return Submission("slurm", "lab", ["7"], str(tmp_path / "logs"))


def scancel(folder: Path, *lines: str) -> None:
    path = folder / "bin/scancel"
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)


def words(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "logs").iterdir())


def test_a_job_that_is_ended_is_said_to_be(tmp_path, submission):
    scancel(tmp_path, "exit 0")
    cancel_jobs(submission, ["7"], print)
    assert words(tmp_path) == ["cancelled-7-0"]


def test_what_the_queue_may_still_do_is_said_too(tmp_path, submission):
    scancel(tmp_path, "echo scancel: error: Unable to contact slurm controller >&2", "exit 1")
    with pytest.raises(Unanswered, match=r"may still be done: .*once more"):
        cancel_jobs(submission, ["7"], print)
    assert words(tmp_path) == ["cancelled-7-0"]


def test_what_the_queue_refuses_is_not(tmp_path, submission):
    scancel(tmp_path, "echo scancel: error: Kill job error on job id 7: Access/permission denied >&2", "exit 1")
    with pytest.raises(RequestError):
        cancel_jobs(submission, ["7"], print)
    assert words(tmp_path) == []
