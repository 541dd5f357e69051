"""`mvdiff bench scaling` through a real queue: jobs of one process and of several, and figures that add up."""

import json

import pytest

from jobs.cli import main
from slurm.command import run

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("plain")]

SMALL = [
    "model=tiny", "train=default", "bench.repeats=1", "bench.warmup=1", "bench.rows=8", "generate.steps=1",
    "generate.slice=8", "cluster=slurm", "cluster.gpus_per_node=2", "cluster.cpus_per_task=1",
]  # fmt: skip


def test_scaling_is_measured_through_the_queue(cluster, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "scaling", *SMALL, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    training, generation = found["training"], found["generation"]
    assert training["of_1"]["first"]["ranks"] == 1 and training["of_2"]["first"]["ranks"] == 2
    assert training["of_2"]["samples_per_s"] == pytest.approx(
        2 * training["of_2"]["first"]["step"]["samples_per_s"]
    )  # fmt: skip
    for part in (training, generation):
        assert part["times"] == pytest.approx(part["of_2"]["samples_per_s"] / part["of_1"]["samples_per_s"])
        assert part["efficiency"] == pytest.approx(part["times"] / 2)
    jobs = run("squeue", "--noheader", "--states=all", "--array", "--format=%j|%C|%T").splitlines()
    assert sorted(line.strip() for line in jobs if line.startswith("bench-")) == [
        "bench-generation-1|1|COMPLETED",
        "bench-generation-2|1|COMPLETED",
        "bench-generation-2|1|COMPLETED",
        "bench-training-1|1|COMPLETED",
        "bench-training-2|2|COMPLETED",
    ]


def test_a_rank_that_fails_is_told_in_one_line(cluster, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    asked = ["bench", "scaling", *SMALL, "bench.parts=[generation]", "cluster.python=/nowhere"]
    assert main([*asked, "--json"]) == 1
    told = capfd.readouterr()
    assert json.loads(told.out.splitlines()[-1])["state"] == "failed"
    assert [line for line in told.err.splitlines() if line.startswith("mvdiff bench:")]
    assert "Traceback" not in told.err


def test_ranks_that_nodes_cannot_share_are_refused(cluster, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "scaling", *SMALL, "bench.ranks=3", "cluster.nodes=2"]) == 2
    assert "bench.ranks=3" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
