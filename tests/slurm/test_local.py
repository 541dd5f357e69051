"""The controller of a local job, alone: time limits of seconds, which no request could ask for."""

import os
import shlex
import subprocess
import sys

import pytest

# One line for every start and for the warning; how each start ends is given.
TASK = """
import os, signal, sys, time
folder, *ends = sys.argv[1:]
restart = os.environ["MVDIFF_RESTART_COUNT"]
def say(word):
    with open(folder + "/said", "a") as file:
        file.write(restart + " " + word + "\\n")
signal.signal(signal.SIGUSR2, lambda *_: say("warned"))
say("started")
end = ends[int(restart)]
if end == "gave-up":
    open(folder + "/gave-up-" + os.environ["SUBMITIT_LOCAL_JOB_ID"] + "-" + restart, "w")
while end == "hang":
    time.sleep(0.1)
sys.exit(1 if end == "gave-up" else int(end))
"""


@pytest.fixture
def run(tmp_path):
    """Run a controller to its end; returns what its only task said."""

    def run(*ends: str, limit_s: int = 60, tries: int = 3) -> list[str]:
        environment = {
            "SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_TIMEOUT_S": str(limit_s), "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "1", "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_LOCAL_COMMAND": shlex.join([sys.executable, "-c", TASK, str(tmp_path), *ends]),
        }  # fmt: skip
        words = [sys.executable, "-m", "slurm.local", str(tmp_path), str(tries)]
        answer = subprocess.run(words, env=os.environ | environment, timeout=60, capture_output=True, check=True)
        assert answer.stdout == answer.stderr == b"", "what it says is in the job's log"
        return (tmp_path / "said").read_text().splitlines()

    return run


def test_a_job_out_of_time_was_warned_and_starts_again(run):
    assert run("hang", "0", limit_s=2) == ["0 started", "0 warned", "1 started"]


def test_a_job_that_wants_to_come_back_does_so_as_often_as_it_wants(run):
    assert len(run(*["144"] * 8, "0", tries=1)) == 9


def test_a_job_that_fails_has_its_tries_and_one_that_gives_up_has_none(run):
    assert run("1", "1", "0", tries=2) == ["0 started", "1 started"]
    assert run("gave-up", "0")[2:] == ["0 started"]
