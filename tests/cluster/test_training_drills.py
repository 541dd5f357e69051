"""Training is interrupted in every way a cluster knows, and ends with the bits of a run that was left alone."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.runfolder import Run
from mvdiff.mouse.colony import Colony, synthesise
from mvdiff.train.checkpoint import read_manifest
from mvdiff.train.journal import read_losses
from mvdiff.train.position import read_history
from tests.cluster.lab import LOW, SMALL, Training, newest, state, take_the_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

INTERVAL = 10
WORLD = 4
STRIKES = int(os.environ.get("MVDIFF_STRIKES", "6"))
STEPS = 20 * max(6, STRIKES)
"""None of a storm's starts is waited for longer than an interval and two steps."""


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """24 small mice, 8 of them held out."""
    folder = tmp_path_factory.mktemp("mice")
    synthesise(folder, Colony(24, 0, "any", 64, "mouse", "lz4", 8, 64))
    return folder


@pytest.fixture
def submit(tmp_path, shards, eventually):
    """Submit training of the run ``name`` and return the job."""

    def words(name: str, *more: str) -> list[str]:
        return [
            "train", f"run={name}", f"runs={tmp_path}/runs", f"data={shards}/train", f"validation={shards}/heldout",
            "train=demo", f"train.steps={STEPS}", f"train.batch={WORLD}", "train.log_every=0",
            f"train.save_every={INTERVAL}", f"train.validation.every={INTERVAL}",
            "train.validation.samples=4", "train.validation.batch=1",
            "train.augment.flip=0.5", "train.augment.colour=0.1", "train.augment.crop=0.95", *SMALL, *LOW,
            "cluster.nodes=2", "cluster.gpus_per_node=2", *more,
        ]  # fmt: skip

    def start(name: str, *more: str) -> Training:
        assert main(words(name, *more)) == 0
        return Training(Run(tmp_path / "runs" / name), eventually)

    return start


CALM: dict[tuple[str, ...], Training] = {}


@pytest.fixture
def calm(submit):
    """The same run, left alone; made once for each set of overrides."""

    def run(*more: str) -> Training:
        if more not in CALM:
            job = submit("calm", *more)
            job.wait(job.ended, 600)
            CALM[more] = job
        return CALM[more]

    return run


def assert_same(job: Training, calm: Training) -> None:
    """Weights, averages, optimizer and position to the last bit, the loss of every step, every validation."""
    assert state(job.job_id) == "COMPLETED", job.events()[-4:]
    ours, theirs = newest(job.run.checkpoints), newest(calm.run.checkpoints)
    assert ours.name == theirs.name
    assert read_manifest(ours) == read_manifest(theirs)
    assert read_losses(job.folder.events) == read_losses(calm.folder.events)
    found, expected = (read_history(newest(one.run.checkpoints), one.run.validation) for one in (job, calm))
    assert found.written() == expected.written()


def redone(job: Training) -> list[int]:
    """How many steps each start did again that an earlier one had done."""
    done, again, count = -1, [], 0
    for event in job.events():
        if event["kind"] == "task started" and event["rank"] == 0:
            again.append(0)
        elif event["kind"] == "step":
            count = max(0, done + 1 - event["first"])
            again[-1] += min(count, len(event["losses"]))
            done = max(done, event["last"])
    return again


class Storm:
    """Interruptions drawn from a seed: what happens, and when."""

    WAYS = ("warn all", "warn one", "terminate one", "warn twice")
    MOMENTS = ("start-up", "steps", "save", "validation")

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._early = 0
        self.log: list[dict[str, object]] = []

    def strike(self, job: Training) -> None:
        """Wait for a moment of the start that is under way, and interrupt it."""
        moment = self._chance.choice(self.MOMENTS)
        # three starts in a row that save nothing end a run
        self._early = self._early + 1 if moment == "start-up" else 0
        if self._early > 2:
            moment, self._early = "steps", 0
        self._await(moment, job)
        way = "preempt" if len(self.log) % 4 == 3 else self._chance.choice(self.WAYS)
        starts, victim = job.starts(), self._chance.randrange(WORLD)
        if way == "warn all":
            job.signal_step("USR2")
        elif way == "warn one":
            job.kill(victim, signal.SIGUSR2)
        elif way == "terminate one":
            job.kill(victim, signal.SIGTERM)
        elif way == "warn twice":
            job.signal_step("USR2")
            job.signal_step("TERM")
        else:
            take_the_cluster()
        self.log.append({"moment": moment, "way": way, "time": time.time()})
        job.wait(lambda: job.starts() > starts or job.ended(), 240)
        assert job.starts() > starts, f"it did not come back after {self.log}"

    def _await(self, moment: str, job: Training) -> None:
        if moment == "start-up":
            job.wait(lambda: len(job.pids()) == WORLD)
        elif moment == "steps":
            job.wait_for_steps(self._chance.randint(1, 12))
        elif moment == "save":
            job.wait_for_steps(1)
            job.wait(lambda: any(event["kind"] == "saving" for event in job.since_start()))
        else:
            job.wait_for_steps(1)
            job.wait(lambda: any(e["kind"] == "step" and (e["last"] + 1) % INTERVAL == 0 for e in job.since_start()))


def tell(name: str, job: Training, storm: Storm | None = None) -> None:
    """Leave what was measured where ``MVDIFF_DRILLS`` says, for whoever wants a table of it."""
    if folder := os.environ.get("MVDIFF_DRILLS"):
        content = {
            "events": job.events(),
            "redone": redone(job),
            "storm": storm.log if storm else [],
            "job": job.job_id,
        }
        Path(folder, f"{name}.json").write_text(json.dumps(content))


@pytest.mark.xdist_group("storm")
def test_a_storm_of_signals_and_preemptions_leaves_no_trace(cluster, submit, calm):
    expected = calm()
    job = submit("stormy")
    storm = Storm(seed=STRIKES)
    job.wait(lambda: job.starts() == 1)
    for _ in range(STRIKES):
        storm.strike(job)
    job.wait(job.ended, 600)
    tell("storm", job, storm)
    assert job.starts() == STRIKES + 1
    assert_same(job, expected)


@pytest.mark.xdist_group("storm")
def test_a_crashed_node_costs_at_most_one_interval(cluster, submit, calm):
    expected = calm()
    job = submit("crashed")
    job.wait_for_steps(INTERVAL + 5)
    node = next(e["node"] for e in job.events() if e["kind"] == "task started" and e["rank"] == WORLD - 1)
    cluster.crash_node(node)
    job.wait(lambda: job.starts() == 2, 240)
    cluster.recover_node(node)
    job.wait(job.ended, 600)
    tell("crash", job)
    assert node not in {e["node"] for e in job.since_start() if e["kind"] == "task started"}
    assert_same(job, expected)
    assert sum(redone(job)) <= INTERVAL


@pytest.mark.xdist_group("drills")
def test_with_accounting_too(accounting_cluster, submit, calm):
    """A signal, a preemption, a crashed node and a rank's death, one after the other."""
    two_ranks = "cluster.gpus_per_node=1"
    expected = calm(two_ranks)
    job = submit("accounted", two_ranks)
    job.wait_for_steps(5)
    job.signal_step("USR2")
    job.wait(lambda: job.starts() == 2, 240)
    job.wait_for_steps(5)
    take_the_cluster()
    job.wait(lambda: job.starts() == 3, 240)
    job.wait_for_steps(INTERVAL)
    accounting_cluster.crash_node("n2")
    accounting_cluster.recover_node("n2")
    job.wait(lambda: job.starts() == 4, 240)
    job.wait_for_steps(5)
    job.kill(1, signal.SIGKILL)
    job.wait(job.ended, 600)
    tell("accounted", job)
    assert job.starts() == 5
    assert_same(job, expected)


@pytest.mark.xdist_group("storm")
def test_one_rank_s_death_ends_the_step_for_all_and_the_job_comes_back(cluster, submit, calm):
    expected = calm()
    job = submit("bereaved")
    job.wait_for_steps(INTERVAL + 5)
    job.kill(0, signal.SIGKILL)
    job.wait(lambda: job.starts() == 2, 240)
    job.wait(job.ended, 600)
    tell("death", job)
    assert_same(job, expected)
    assert 0 <= sum(redone(job)) <= INTERVAL


@pytest.mark.xdist_group("drills")
def test_a_time_limit_of_a_third_of_the_work_needs_no_person(cluster, submit):
    """A minute is the shortest limit there is. SLURM warns up to a minute early: a start may end before its first step,
    but not the run."""
    job = submit(
        "limited", "train.steps=100000", "train.validation.every=0", "cluster.gpus_per_node=1", "cluster.time_min=1",
        "cluster.signal_lead_s=5",
    )  # fmt: skip

    def told(kind: str) -> list[int]:
        return [event["step"] for event in job.events() if event["kind"] == kind]

    job.wait(lambda: len(set(told("stopped"))) >= 3, 600)
    stopped = job.starts()
    job.wait(lambda: job.starts() > stopped, 120)
    job.wait_for_steps(1)
    tell("limit", job)
    assert job.starts() >= 4
    assert set(told("resumed")) <= set(told("stopped")) and sum(redone(job)) == 0, "every start lost nothing"
    losses = read_losses(job.folder.events)
    assert list(losses) == list(range(len(losses)))
    job.cancel()


@pytest.mark.xdist_group("storm")
def test_another_world_size_at_every_restart(cluster, submit, calm):
    """4, then 2, then 1 ranks: the losses are those of 4 throughout, but for rounding."""
    expected = calm()
    for ranks in ("cluster.nodes=2", "cluster.gpus_per_node=2"), ("cluster.nodes=1", "cluster.gpus_per_node=2"):
        job = submit("elastic", *ranks)
        job.wait_for_steps(25)
        job.cancel()
    job = submit("elastic", "cluster.nodes=1", "cluster.gpus_per_node=1")
    job.wait(job.ended, 600)
    assert state(job.job_id) == "COMPLETED"
    losses: dict[int, float] = {}
    for folder in job.run.jobs():
        losses |= read_losses(folder.events)
    theirs = read_losses(expected.folder.events)
    assert list(losses) == list(theirs)
    assert list(losses.values()) == pytest.approx(list(theirs.values()), rel=1e-5)


@pytest.mark.xdist_group("drills")
def test_three_starts_in_vain_end_the_run_with_the_reason(cluster, submit):
    """Warned in the middle of start-up, every time."""
    job = submit("futile")
    for start in range(1, 4):
        job.wait(lambda start=start: job.starts() == start and len(job.pids()) == WORLD, 90)
        job.signal_step("USR2")
    job.wait(job.ended, 90)
    assert state(job.job_id) == "FAILED"
    failure = next(e for e in job.events() if e["kind"] == "task failed")
    assert "the last 3 starts saved nothing new" in failure["error"] and "SIGUSR2" in failure["error"]
    assert job.starts() == 4
