"""`mvdiff doctor cluster=SITE` on a real SLURM, with faults planted that it has to find."""

import json

import pytest

from jobs.cli import main

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("plain")]
SMALL = ["doctor", "cluster=slurm", "cluster.cpus_per_task=1", "--json"]


def told(capsys, status, *words):
    """Level of the findings by part, and everything that was said of each part."""
    assert main([*SMALL, *words]) == status
    findings = json.loads(capsys.readouterr().out)["findings"]
    return {
        finding["part"]: ({f["level"] for f in findings if f["part"] == finding["part"]}, finding["what"])
        for finding in findings
    }


def test_a_sound_cluster_is_found_sound(cluster, tmp_path, capsys):
    parts = "parts=[clock,filesystem,signal,requeue,array]"
    found = told(capsys, 0, f"runs={tmp_path}", "cluster.gpus_per_node=0", "cluster.tasks_per_node=2", parts)
    assert list(found) == ["clock", "filesystem", "signal", "requeue", "array"]
    assert all(levels == {"ok"} for levels, _ in found.values()), found


def test_planted_faults_are_found(cluster, tmp_path, capsys):
    forbid = "cluster.setup=['scontrol update JobId=$SLURM_JOB_ID Requeue=0']"
    words = ["parts=[gpus,filesystem,requeue]", "folders=[/nowhere]", forbid, "cluster.gpus_per_node=1"]
    found = told(capsys, 1, f"runs={tmp_path}", *words)
    assert all("change" in levels for levels, _ in found.values()), found
    assert "/nowhere" in found["filesystem"][1] and "does not" in found["requeue"][1]
