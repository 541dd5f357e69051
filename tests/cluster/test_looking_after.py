"""What people ask of their runs on a cluster: status, logs, cancel, retry. The cluster has no accounting."""

import shutil
import signal
import subprocess

import pytest

from jobs.cli import main
from jobs.runfolder import Run
from slurm.outlook import recall
from tests.cluster.lab import LOW, SMALL, Training, last_job, take_the_cluster
from tests.jobs.test_rights import modes

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("people")]


def synth(name, samples, *more):
    words = ["synth", f"run={name}", f"samples={samples}", "size=32", "held_out=0", "shard_samples=50"]
    return [*words, "cluster=slurm", *more]


def test_queued_held_running_cancelled(cluster, answer, tmp_path, monkeypatch, eventually):
    monkeypatch.chdir(tmp_path)

    def states():
        told = answer("status", "--json")[1]["runs"]
        return {one["run"]: one for one in told}

    assert (
        answer(
            *synth(
                "busy",
                100_000,
                "cluster.workers=4",
                "cluster.cpus_per_task=8",
                "group_readable=true",
                "cluster.gpus_per_node=0",
            )
        )[0]
        == 0
    )
    eventually(lambda: set(states()["busy"]["jobs"].values()) == {"RUNNING"}, 30)
    assert answer(*synth("next", 8, "cluster.cpus_per_task=8", "cluster.gpus_per_node=0"))[0] == 0
    eventually(lambda: "nodes to become free (Resources)" in (states()["next"]["why"] or ""), 30)
    job_id = next(iter(states()["next"]["jobs"]))
    table = answer("status")[1].splitlines()
    assert len(table) == 2
    assert any("busy" in line and "running" in line and "4 running" in line for line in table)
    assert any("next" in line and "queued" in line and "Resources" in line for line in table)
    status, told = answer("logs", "next")
    assert status == 2 and "queued" in told and told.count("\n") == 1

    subprocess.run(["scontrol", "uhold", job_id], check=True)
    held = eventually(lambda: (found := states()["next"])["state"] == "held" and found, 10)
    assert f"scontrol release {job_id}" in held["why"]

    status, told = answer("retry", "busy")
    assert status == 2 and "mvdiff cancel busy" in told
    assert answer("cancel", "busy", "--json")[1]["cancelled"].keys() == {"001-synth"}
    eventually(lambda: states()["busy"]["state"] == "cancelled", 60)
    root = answer("status", "busy", "--json")[1]["states"][0]["jobs"].popitem()[0].partition("_")[0]
    assert (tmp_path / "runs" / "busy" / "jobs" / "001-synth" / "logs" / f"cancelled-{root}-0").exists()
    assert "nothing of busy runs or waits" in answer("cancel", "busy")[1]

    for node in ("n1", "n2", "n3", "n4"):
        cluster.drain_node(node)
    subprocess.run(["scontrol", "release", job_id], check=True)
    eventually(lambda: "down, drained or reserved" in (states()["next"]["why"] or ""), 60)
    for node in ("n1", "n2", "n3", "n4"):
        cluster.recover_node(node)
    eventually(lambda: states()["next"]["state"] == "done", 60)
    assert "nothing of next failed" in answer("retry", "next")[1]
    done = set((Run(tmp_path / "runs" / "busy").shards / "train").glob("*.h5"))
    assert modes(tmp_path / "runs" / "next") == {True: {"700"}, False: {"600"}}, "what SLURM itself wrote included"
    assert modes(tmp_path / "runs" / "busy") == {True: {"750"}, False: {"640"}}
    status, told = answer("retry", "busy", "--json")
    assert status == 0 and told["state"] == "submitted" and told["folder"].endswith("002-synth")
    assert answer("cancel", "busy")[0] == 0
    assert done <= set((Run(tmp_path / "runs" / "busy").shards / "train").glob("*.h5"))


def test_preempted_killed_and_failed_training(cluster, answer, tmp_path, monkeypatch, eventually):
    monkeypatch.chdir(tmp_path)
    assert main(["synth", "run=lab", "samples=16", "size=64", "held_out=0", "--wait"]) == 0
    run = Run(tmp_path / "runs" / "lab")
    assert main(
        ["train", "run=lab", "data=runs/lab/shards/train", "train=demo", "train.steps=100000", "train.batch=8",
         "train.log_every=0.3", *SMALL, *LOW, "cluster.nodes=2", "cluster.gpus_per_node=1"]
    ) == 0  # fmt: skip
    eventually(lambda: last_job(run, "train"), 10)
    training = Training(run, eventually)
    training.wait_for_steps(10)

    def state():
        return answer("status", "--json")[1]["runs"][0]

    running = state()
    assert running["state"] == "running" and running["train"]["step"] >= 10 and running["time_limit_at"]
    assert "the time limit comes in" in answer("status")[1] or running["train"]["eta_s"] < 86_400

    take_the_cluster()
    eventually(lambda: training.starts() == 2, 90)
    training.wait_for_steps(3)
    resumed = state()
    assert (resumed["restarts"], resumed["preempted"], resumed["out_of_time"]) == (1, 1, 0)
    assert "resumed once (preempted once)" in answer("status", "lab")[1]

    shutil.rmtree(run.shards)
    training.kill(1, signal.SIGKILL)
    eventually(lambda: state()["state"] == "failed", 90)
    failed = state()
    assert failed["ended_unasked"] == 1
    assert "shards/train" in failed["failure"]["error"], "why the last start could not do anything"
    status, told = answer("logs", "lab", "--failed", "--json")
    assert status == 0 and told["lines"] and told["error"] == failed["failure"]["error"]
    assert "failed first" in answer("status", "lab")[1]


def test_what_the_queue_forgets_the_accounting_recalls(accounting_cluster, eventually):
    words = ["sbatch", "--parsable", "--output=/dev/null"]
    ended = [
        subprocess.run([*words, f"--wrap=exit {code}"], capture_output=True, text=True, check=True).stdout.strip()
        for code in (0, 3)
    ]
    assert eventually(lambda: len(told := recall(ended)) == 2 and told, 60)
    assert [recall(ended)[id_].word for id_ in ended] == ["COMPLETED", "FAILED"]
    assert recall(["999999"]) == {}
