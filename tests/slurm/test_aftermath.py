"""What a batch script does after its step: the script is run by bash, with srun and scontrol replaced."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from slurm import requeue
from slurm.queue import moment
from slurm.requeue import TRIES, ask, unasked
from slurm.submitter import Submitter
from slurm.words import BEGAN, GAVE_UP, STOPPED, Words
from tests.site import site

RUNNING = "JobId=7 JobState=RUNNING Reason=None Restarts=0 EndTime=2026-11-24T15:44:49"
ENDING = "JobId=7 JobState=COMPLETING Reason={} Restarts={}"
SCONTROL = """#!/bin/sh
printf '%s\\n' "$*" >> "$SEEN"
[ "$1" = requeue ] || printf '%s\\n' "$SHOWN"
"""


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A queue of which ``$SHOWN`` is what it says of the job; what it is asked is returned."""
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin/scontrol", SCONTROL)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("SHOWN", RUNNING)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return lambda: (tmp_path / "seen").read_text().splitlines() if (tmp_path / "seen").exists() else []


def batch(tmp_path: Path, srun: str, name: str = "logs", **changes) -> "subprocess.Popen[bytes]":
    """The batch script of a job whose step is ``srun``, running."""
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "cwd").mkdir(exist_ok=True)
    executable(tmp_path / "bin/srun", f"#!/bin/sh\n{srun}\n")
    script = Submitter(site(time_min=9, **changes), "x", tmp_path / name, tmp_path / name / "code", 60).script(None)
    (tmp_path / "job.sh").write_text(script)
    return subprocess.Popen(["bash", str(tmp_path / "job.sh")], cwd=tmp_path / "cwd")


def sleeps(pid: int) -> bool:
    """Whether the shell waits for its step: a SIGTERM between fork and wait is kept by bash until the step has ended,
    which on a cluster it has at once, since SLURM ends the step with the same signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


HOSTILE = [
    "$(touch hit)",
    "`touch hit`",
    "'; touch hit; '",
    '"; touch hit; "',
    "a b",
    "$HOME",
    "ü|&;<>*?~",
    "}; touch hit",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_paths_are_only_words_in_the_trap(tmp_path, queue, name):
    job = batch(tmp_path, "exit 3", name=name)
    assert job.wait(30) == 3
    assert queue() == ["show job --oneliner 7", "requeue 7"]
    assert [path.name for path in (tmp_path / name).iterdir()] == ["unasked-7-0"]
    assert not list((tmp_path / "cwd").iterdir())


def test_a_job_that_is_done_asks_nothing(tmp_path, queue, monkeypatch):
    monkeypatch.setenv("ended", "9")
    assert batch(tmp_path, "exit 0").wait(30) == 0
    assert queue() == []


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        (RUNNING, True),
        (ENDING.format("TimeLimit", 0), True),
        (ENDING.format("JobLaunchFailure", 0), True),
        (ENDING.format("None", 0), False),
        (ENDING.format("TimeLimit", 1), False),
        ("JobId=7 JobState=CANCELLED Reason=None Restarts=0", False),
        ("JobId=7 JobState=PENDING Reason=BeginTime Restarts=0", False),
    ],
)
def test_a_shell_that_is_told_to_end_asks_at_once_and_only_where_it_should(tmp_path, queue, monkeypatch, shown, asked):
    monkeypatch.setenv("SHOWN", shown)
    job = batch(tmp_path, f"touch {tmp_path}/runs; exec sleep 30")
    deadline = time.monotonic() + 20
    while not ((tmp_path / "runs").exists() and sleeps(job.pid)):
        assert time.monotonic() < deadline
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(20) != 0
    assert ("requeue 7" in queue()) is asked
    assert (tmp_path / "logs/unasked-7-0").exists() is asked


def test_a_job_whose_module_is_missing_does_not_begin_and_tries_again(tmp_path, queue, monkeypatch, capfd):
    monkeypatch.setenv("BASH_FUNC_module%%", "() { return 1; }")
    job = batch(tmp_path, f"touch {tmp_path}/ran", modules=["cuda/99"])
    assert job.wait(30) == 1
    assert "mvdiff: not started: module load cuda/99 failed" in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert queue()[-1] == "requeue 7"


def test_a_job_that_gave_up_asks_nothing_and_one_that_stopped_is_not_counted(tmp_path, queue):
    (tmp_path / "logs").mkdir()
    words = Words(tmp_path / "logs", "7", 0)
    words.say(STOPPED)
    assert batch(tmp_path, "exit 1").wait(30) == 1
    assert queue()[-1] == "requeue 7"
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["stopped-7-0"]
    (tmp_path / "seen").unlink()
    words.say(GAVE_UP, "why")
    assert batch(tmp_path, "exit 1").wait(30) == 1
    assert queue() == []


def test_a_member_of_an_array_is_requeued_alone_and_counted_alone(tmp_path, queue, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SHOWN", RUNNING.replace("Restarts=0", "Restarts=2"))
    (tmp_path / "logs").mkdir()
    for member in ("5_1", "5_2"):
        Words(tmp_path / "logs", member, 0).say("unasked")
    Words(tmp_path / "logs", "5_1", 1).say("unasked")
    assert batch(tmp_path, "exit 1").wait(30) == 1
    assert queue()[-1] == "requeue 5_2", "7 may be the array's own id, and bring all of its members back"
    Words(tmp_path / "logs", "5_2", 1).say("unasked")
    (tmp_path / "seen").unlink()
    assert batch(tmp_path, "exit 1").wait(30) == 1
    assert queue() == ["show job --oneliner 5_2"]


def test_starts_that_nothing_else_counts_are_few(tmp_path, capsys):
    for start in range(TRIES):
        assert unasked(Words(tmp_path, "7", start), None) is (start < TRIES - 1)
    assert "before its work began" in capsys.readouterr().out
    for start in range(TRIES * 3):
        words = Words(tmp_path, "8", start)
        if start % TRIES == 0:
            words.say(BEGAN)
        assert unasked(words, None)


def test_a_queue_that_does_not_answer_is_asked_again(tmp_path, queue, monkeypatch, capsys):
    away = f"""#!/bin/sh
    printf '%s\\n' "$*" >> "$SEEN"
    [ $(wc -l < "$SEEN") -gt 3 ] || {{ echo "Unable to contact slurm controller (connect failure)" >&2; exit 1; }}
    [ "$1" = requeue ] || echo "{RUNNING}"
    """
    executable(tmp_path / "bin/scontrol", away)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert ask(Words(tmp_path, "7", 0))
    assert queue() == ["show job --oneliner 7"] * 4 + ["requeue 7"]
    monkeypatch.setattr(requeue, "PATIENCE_S", -1)
    executable(tmp_path / "bin/scontrol", "#!/bin/sh\nexit 1\n")
    assert not ask(Words(tmp_path, "7", 0))
    assert "no answer from slurmctld" in capsys.readouterr().err


def test_a_queue_that_refuses_is_believed(tmp_path, queue, monkeypatch, capsys):
    refusing = f"""#!/bin/sh
    [ "$1" = requeue ] && {{ echo "Requested operation is disabled" >&2; exit 1; }}
    echo "{RUNNING}"
    """
    executable(tmp_path / "bin/scontrol", refusing)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert not ask(Words(tmp_path, "7", 0))
    assert capsys.readouterr().err == "scontrol requeue 7: Requested operation is disabled\n"


def test_times_are_read_in_utc():
    assert moment("1970-01-02T00:00:01") == 86401
    assert moment("Unknown") == float("inf")
