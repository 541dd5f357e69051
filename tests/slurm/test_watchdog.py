"""Deadlines, and work that reaches no step boundary before them: each in a process of its own."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from slurm import deadline
from slurm.deadline import Deadline
from slurm.place import Place

LOCAL = Place("local", "7", 0, 1, 0, "n", "127.0.0.1", 0)
SLURM = Place("slurm", "7", 0, 1, 0, "n", "127.0.0.1", 0)

WORK = """
    import ctypes, math, sys, time
    from pathlib import Path
    from slurm.deadline import Deadline
    from slurm.place import Place
    from slurm.stop import StopFlag
    from slurm.watchdog import Watchdog
    from slurm.words import Words

    logs, work = Path(sys.argv[1]), sys.argv[2]
    stop = StopFlag.install()
    answers = iter(eval(sys.argv[3]))
    place = Place("local", "7", 0, 1, 0, "n", "127.0.0.1", 0)
    said = lambda reason: print(reason, flush=True)
    with Watchdog(place, Words(logs, "7", 0), Deadline(lambda: next(answers, 0.0)), 3, said):
        print("at work", flush=True)
        if work == "hang":  # unlike sleep, no signal ends it
            mutex = ctypes.create_string_buffer(128)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
        if work == "stop":
            while not stop.is_set():
                time.sleep(0.01)
    print("returned", flush=True)
"""


@pytest.fixture
def process(tmp_path):
    started = []

    def start(work: str, answers: str) -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", textwrap.dedent(WORK), str(tmp_path), work, answers]
        job = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        started.append(job)
        assert job.stdout.readline() == "at work\n"
        return job

    yield start
    for job in started:
        job.kill()
        job.communicate()


def test_work_inside_a_library_goes_back_before_its_time_is_up(process):
    """Its main thread runs no Python, so no handler either."""
    job = process("hang", "[math.inf, 2.0, 1.0]")
    os.kill(job.pid, signal.SIGUSR2)
    asked = time.monotonic()
    assert job.communicate(timeout=20)[0] == (
        "no step boundary within 1 s of the warning: going back to the queue without saving\n"
    )
    assert job.returncode == 144
    assert time.monotonic() - asked > 0.9


def test_time_that_ends_without_a_warning_is_seen_too(process):
    job = process("hang", "[10.3, 10.0]")
    said = job.communicate(timeout=20)[0]
    assert said == "no step boundary and no warning: going back to the queue without saving\n"
    assert job.returncode == 144


def test_work_that_returns_in_time_is_left_alone(process):
    job = process("stop", "[math.inf, 60]")
    os.kill(job.pid, signal.SIGUSR2)
    assert job.communicate(timeout=20)[0] == "returned\n"
    assert job.returncode == 0


def test_the_local_deadline_counts_from_the_start_of_the_process():
    left = Deadline.of(LOCAL, 3600).left()
    assert 0 < left < 3600
    assert Deadline.of(Place("here", "7", 0, 1, 0, "n", "127.0.0.1", 0), 60).left() == math.inf


def test_the_queue_is_asked_once_and_at_every_renewal(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    asked = []

    def fields(job_id: str) -> dict[str, str]:
        asked.append(job_id)
        written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 600 / len(asked)))
        return {"EndTime": written} if len(asked) < 3 else {}

    monkeypatch.setattr(deadline, "job_fields", fields)
    one = Deadline.of(SLURM, 3600)
    assert asked == []
    assert one.left() == pytest.approx(600, abs=2)
    assert one.left() == pytest.approx(600, abs=2)
    one.renew()
    assert one.left() == pytest.approx(300, abs=2)
    one.renew()
    assert one.left() == pytest.approx(300, abs=2), "no answer changes nothing"
    assert asked == ["7"] * 3
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))
    assert Deadline.of(SLURM, 3600).left() == pytest.approx(100, abs=2)
    assert len(asked) == 3


def test_a_queue_that_never_answers_is_not_asked_at_every_look(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    asked = []
    monkeypatch.setattr(deadline, "job_fields", lambda job_id: asked.append(job_id) or {})
    one = Deadline.of(SLURM, 3600)
    assert [one.left(), one.left()] == [math.inf, math.inf]
    assert len(asked) == 1
