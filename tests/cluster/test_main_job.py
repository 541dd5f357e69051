"""The main job on a real SLURM: preempted training that resumes by itself, an array of which one worker is killed."""

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from jobs.runfolder import Run
from jobs.watch import task_events
from mvdiff import MultiViewPipeline, ResultStore, ShardDataset
from mvdiff.events import read_events
from tests.cluster.lab import LOW, SMALL, in_background, last_job, state, take_the_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("people")]


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys) -> Run:
    """A working directory with a run ``lab`` that has shards of small procedural mice."""
    monkeypatch.chdir(tmp_path)
    assert main(["synth", "run=lab", "samples=24", "size=64", "held_out=8", "--wait"]) == 0
    return Run(tmp_path / "runs" / "lab")


def train(*more: str) -> list[str]:
    return [
        "train", "run=lab", "data=runs/lab/shards/train", "train=demo", "train.save_every=500", "train.log_every=0.3",
        "train.batch=8", *SMALL, *LOW, "cluster.nodes=2", "cluster.gpus_per_node=2", "--wait", *more,
    ]  # fmt: skip


def test_from_pictures_to_the_report(cluster, lab, eventually, capsys):
    thread, status = in_background(train("train.steps=80"))
    folder = eventually(lambda: last_job(lab, "train"), 60)
    job_id = folder.submission().job_ids[0]
    eventually(lambda: any(event.get("last", 0) >= 10 for event in read_events(folder.events)), 120)
    take_the_cluster()
    thread.join(240)
    assert status == [0]
    assert state(job_id) == "COMPLETED"
    starts = [event for event in task_events(folder) if event["kind"] == "task started" and event["rank"] == 0]
    assert [event["restart"] for event in starts] == [0, 1], "one job, started twice"
    stops = [event for event in task_events(folder) if event["kind"] == "task stopped"]
    assert {event["rank"] for event in stops} == {0, 1, 2, 3}, "every rank stopped at a step boundary"
    stopped_at = {event["step"] for event in read_events(folder.events) if event["kind"] == "stopped"}
    resumed_at = {event["step"] for event in read_events(folder.events) if event["kind"] == "resumed"}
    assert stopped_at == resumed_at, "no step is lost on a warned stop"
    assert 0 < stopped_at.pop() < 80

    assert main(train("train.steps=80")) == 0
    assert "already done" in capsys.readouterr().out

    generate = ["generate", "run=lab", "data=runs/lab/shards/heldout", "generate.slice=2", "generate.batch=1",
                "generate.steps=25", *LOW, "cluster.gpus_per_node=1", "cluster.workers=4", "--wait"]  # fmt: skip
    thread, status = in_background(generate)
    folder = eventually(lambda: last_job(lab, "generate"), 60)
    victim = eventually(lambda: next(iter(task_events(folder)), None), 60)
    os.kill(victim["pid"], signal.SIGKILL)
    thread.join(240)
    assert status == [0], "the killed worker comes back, and the others take over what it had in hand"
    assert list(map(state, folder.submission().job_ids)) == ["COMPLETED"] * 4
    results, inputs = ResultStore(lab.results), ShardDataset(lab.shards / "heldout")
    assert sorted(results.ids()) == sorted(inputs.ids)
    assert not list(lab.results.glob("*/attempts/*")), "nothing half-done is left"

    capsys.readouterr()
    assert main(["verify", str(lab.results), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"] == 8
    assert main([*generate, "--json"]) == 0
    assert "job_ids" not in json.loads(capsys.readouterr().out), "nothing is left to do, so nothing is submitted"

    assert main(["evaluate", "run=lab", "data=runs/lab/shards/heldout", *LOW, "cluster.gpus_per_node=0", "--wait",
                 "--json"]) == 0  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert Path(answer["report"]).is_file()
    assert 0 <= answer["foreground_iou"] <= 1

    checkpoint = next(iter(sorted(lab.checkpoints.glob("step-*"), reverse=True)))
    views = MultiViewPipeline.from_pretrained(checkpoint)([inputs[0].views[0]], seeds=[0])
    assert views.shape == (1, 6, 64, 64, 3)
    assert views.dtype == np.uint8


def test_a_cancelled_job_stays_cancelled(cluster, lab, eventually):
    thread, status = in_background(train("train.steps=100000"))
    folder = eventually(lambda: last_job(lab, "train"), 60)
    job_id = folder.submission().job_ids[0]
    eventually(lambda: len({event["rank"] for event in task_events(folder)}) == 4, 60)
    subprocess.run(["scancel", job_id], check=True)
    thread.join(60)
    assert status == [1]
    assert state(job_id) == "CANCELLED"


def test_a_partition_that_does_not_exist_is_refused_before_anything_is_queued(cluster, lab, capsys):
    capsys.readouterr()
    assert main(train("cluster.partition=nope")) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "partition 'nope'" in told
    assert "high, low, short" in told
    assert last_job(lab, "train") is None
