"""Generation comes through storms of faults, through two people at once, and through bad inputs."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from jobs.cli import main
from jobs.watch import task_events
from mvdiff import ResultStore, ShardDataset
from mvdiff.generate.status import status
from mvdiff.model.pipeline import MultiViewPipeline
from slurm.testbed import Testbed
from tests.cluster.chaos import storm
from tests.cluster.chaos_checks import breaches, left_over, nothing_to_do
from tests.cluster.chaos_lab import Done, Lab
from tests.cluster.conftest import _require

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(1200)]

SEED = int(os.environ.get("MVDIFF_SEED", "1"))
SLURM = ["cluster=slurm", "cluster.partition=low", "cluster.cpus_per_task=1", "cluster.gpus_per_node=1"]


@pytest.fixture(scope="module")
def bed(short_folder) -> Iterator[Testbed]:
    """Four nodes for two workers each."""
    _require(accounting=False)
    bed = Testbed(short_folder / "chaos")
    bed.up(nodes=4, gpus=2, grace_seconds=4)
    yield bed
    bed.down()


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    """24 samples in three shards, generated once with nobody in the way."""
    lab = Lab.make(tmp_path_factory.mktemp("lab"), samples=24, shard_samples=8)
    lab.calm()
    return lab


@pytest.fixture
def data(lab, tmp_path) -> Path:
    """A copy of the lab's shards, to be spoiled."""
    return Path(shutil.copytree(lab.data, tmp_path / "data"))


def shards(data: Path) -> list[Path]:
    return sorted(data.glob("*.h5"))


def assert_rest_done(lab: Lab, name: str, missing: set[str]) -> None:
    """All samples but ``missing`` are there, each as the calm run made it, and nothing is left over."""
    store, calm = ResultStore(lab.results(name)), ResultStore(lab.results("calm"))
    assert sorted(store.ids()) == sorted(set(calm.ids()) - missing)
    for sample_id, views in store:
        np.testing.assert_array_equal(views, calm[sample_id], err_msg=sample_id)
    assert not left_over(lab.results(name))


def test_a_storm_of_faults_leaves_no_trace(bed, tmp_path):
    outcome = storm(tmp_path, bed, SEED, samples=300, workers=8, faults=15)
    print(outcome.table())
    assert not outcome.breaches, "\n".join(outcome.breaches)
    assert outcome.dealt.total() == 15


def test_two_who_give_the_same_command_at_once_get_one_result_set(bed, lab):
    words = lab.words("both", *SLURM, "cluster.workers=2", "--wait")
    shells = [lab.start(*words, environment=bed.environment()) for _ in range(2)]
    told = [shell.communicate(timeout=300) for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0], told
    assert breaches(lab, "both", words, bed.environment()) == []


@pytest.mark.parametrize("member", [0, 1])
def test_a_worker_that_is_warned_comes_back_alone(bed, lab, eventually, member):
    """The last member's raw job id is the whole array's id."""
    name = f"warned{member}"
    words = lab.words(name, *SLURM, "cluster.workers=2", "generate.steps=300")
    lab.good(*words, environment=bed.environment())
    (folder,) = lab.run(name).jobs()

    def starts() -> list[int]:
        started = [event for event in task_events(folder) if event["kind"] == "task started"]
        return [sum(event["job_id"].endswith(f"_{k}") for event in started) for k in (0, 1)]

    eventually(lambda: starts() == [1, 1], 120)
    victim = next(event["pid"] for event in task_events(folder) if event["job_id"].endswith(f"_{member}"))
    os.kill(victim, signal.SIGUSR2)
    eventually(lambda: starts()[member] == 2, 120)
    eventually(lambda: not bed.client.run("squeue", "--noheader").stdout.strip(), 240)
    assert starts()[1 - member] == 1, "the other one was left alone"


def test_what_is_done_is_told_in_under_two_seconds_and_nothing_is_queued(bed, lab):
    """The run ``calm`` was made without a queue; a cluster finds just as little left to do."""
    words = lab.words("calm", *SLURM, "cluster.workers=64")
    problems, _ = nothing_to_do(lab, "calm", words, bed.environment())
    assert problems == []
    assert not bed.client.run("squeue", "--noheader").stdout.strip()


def generate(lab: Lab, name: str, data: Path) -> Done:
    return lab.mvdiff(*lab.words(name, "cluster=local", "cluster.workers=2", "--wait", data=data))


def test_a_flipped_bit_costs_one_sample_which_is_named(lab, data):
    row, shard = 5, shards(data)[1]
    with h5py.File(shard) as file:
        chunk = file["views"].id.get_chunk_info(row)
    content = bytearray(shard.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 16
    shard.write_bytes(content)
    sick = ShardDataset(lab.data).ids[8 + row]
    done = generate(lab, "flipped", data)
    assert done.returncode == 0, done.stderr
    assert_rest_done(lab, "flipped", {sick})
    reasons = status(lab.results("flipped")).reasons
    assert list(reasons) == [sick]
    assert str(shard) in reasons[sick]
    assert "quarantined: 1" in done.stdout


def test_a_truncated_shard_costs_that_shard(lab, data):
    shard = shards(data)[0]
    os.truncate(shard, shard.stat().st_size // 2)
    done = generate(lab, "truncated", data)
    assert done.returncode == 0, done.stderr
    assert_rest_done(lab, "truncated", set(ShardDataset(lab.data).ids[:8]))
    assert shard.name in done.stdout + done.stderr, "it is named"


def test_a_shard_that_is_gone_when_work_begins_costs_that_shard(bed, lab, data, eventually):
    """Planned while every node is taken by others, deleted, and only then started."""
    blocker = bed.client.run(
        "sbatch", "--parsable", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 300"
    ).stdout.strip()
    eventually(lambda: bed.client.run("squeue", "--noheader", "--format=%T").stdout.split() == ["RUNNING"], 60)
    words = lab.words("gone", *SLURM, "cluster.workers=2", data=data)
    lab.good(*words, environment=bed.environment())
    gone = set(ShardDataset(lab.data).ids[16:])
    shards(data)[2].unlink()
    bed.client.run("scancel", blocker)
    eventually(lambda: not bed.client.run("squeue", "--noheader").stdout.strip(), 240)
    now = status(lab.results("gone"))
    assert now.finished
    assert set(now.reasons) == gone
    assert all(str(data) in reason for reason in now.reasons.values())
    assert_rest_done(lab, "gone", gone)


def test_a_sample_that_the_sampler_fails_on_costs_one_sample(lab, monkeypatch, capsys):
    """The real sampler takes every picture, so one is made to be too much for it."""
    inputs = ShardDataset(lab.data)
    victim = inputs[9]
    healthy = MultiViewPipeline.__call__

    def fails_on_the_victim(self, images, *arguments, **named):
        if any(np.array_equal(image, victim.views[0]) for image in images):
            raise FloatingPointError("the sampler's latents are not finite")
        return healthy(self, images, *arguments, **named)

    monkeypatch.setattr(MultiViewPipeline, "__call__", fails_on_the_victim)
    monkeypatch.chdir(lab.folder)
    assert main(lab.words("failing", "cluster=here")) == 0
    assert "quarantined: 1" in capsys.readouterr().out
    assert status(lab.results("failing")).reasons == {
        victim.sample_id: "FloatingPointError: the sampler's latents are not finite"
    }
    assert_rest_done(lab, "failing", {victim.sample_id})
