"""Which failures of SLURM's commands are asked again, and for how long."""

import time
from pathlib import Path

import pytest

from slurm import patience
from slurm.command import failure, reason, run
from slurm.errors import Full, Refused, RequestError, Unanswered
from slurm.patience import persevere
from slurm.queue import largest_array

POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("sbatch: error: AssocMaxSubmitJobLimit sbatch: error: " + POLICY, Refused),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: " + POLICY, Refused),
        ("sbatch: error: QOSGrpSubmitJobsLimit sbatch: error: " + POLICY, Refused),
        ("sbatch: error: " + POLICY, Refused),
        ("sbatch: error: QOSMaxCpuPerJobLimit sbatch: error: " + POLICY, RequestError),
        ("sbatch: error: Batch job submission failed: Resource temporarily unavailable", Full),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", Full),
        ("slurm_load_partitions: Unable to contact slurm controller (connect failure)", Unanswered),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", Unanswered),
        ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", Unanswered),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", RequestError),
        ("sbatch: error: Batch job submission failed: Invalid job array specification", RequestError),
    ],
)
def test_what_a_failure_means(message, kind):
    assert type(failure("sbatch", message)) is kind


def test_the_reason_is_the_limit_that_slurm_names_or_its_last_words():
    assert reason(failure("sbatch", "sbatch: error: AssocMaxSubmitJobLimit " + POLICY)) == "AssocMaxSubmitJobLimit"
    assert reason(failure("sbatch", "sbatch: error: Batch job submission failed: No such file")) == "No such file"


def test_a_command_that_does_not_answer_is_unanswered():
    with pytest.raises(Unanswered, match="did not answer within 0 s"):
        run("sleep", "60", timeout_s=0.1)


class Queue:
    """Fails in the given ways, one a call, then answers."""

    def __init__(self, *failures: RequestError) -> None:
        self.failures, self.calls = list(failures), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)


AWAY, FULL = Unanswered("sinfo failed: away", "wait"), Full("sbatch failed: full", "wait")


def test_a_silent_queue_is_asked_again_and_that_is_told(hurried):
    queue, told = Queue(AWAY, FULL), []
    assert persevere(queue, told.append) == "answer"
    assert queue.calls == 3
    assert [line.partition(": asking again")[0] for line in told] == [
        "no answer from SLURM (away)", "no answer from SLURM (full)",
    ]  # fmt: skip


def test_patience_ends(hurried):
    queue, begun = Queue(*[AWAY] * 1000), time.monotonic()
    with pytest.raises(Unanswered, match="in vain, sinfo failed: away: wait"):
        persevere(queue, lambda line: None)
    assert time.monotonic() - begun < 5
    assert 2 < queue.calls < 10, "the pauses grow"


@pytest.mark.parametrize(
    ("error", "unless"), [(RequestError("sbatch failed: no such partition", "choose"), None), (FULL, Full)]
)
def test_other_failures_are_told_at_once(hurried, error, unless):
    queue = Queue(error)
    with pytest.raises(RequestError):
        persevere(queue, print, unless)
    assert queue.calls == 1


@pytest.mark.parametrize(
    ("parameters", "largest"), [("bf_interval=2", 1001), ("bf_interval=2,max_array_tasks=500", 500)]
)
def test_the_longest_array_is_what_both_limits_allow(tmp_path: Path, monkeypatch, parameters, largest):
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\necho 'MaxArraySize            = 1001\nSchedulerParameters     = {parameters}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert largest_array() == largest


def test_a_machine_without_a_cluster_is_told_as_one():
    told = "sinfo: error: fetch_config: DNS SRV lookup failed sinfo: error: _establish_config_source: failed to fetch"
    error = failure("sinfo --noheader", told)
    assert not isinstance(error, Unanswered) and "belongs to no SLURM cluster" in error.what
