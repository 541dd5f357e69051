"""`mvdiff doctor cluster=SITE` on a real SLURM, with faults planted that it has to find."""

import json

import pytest

from jobs import sites
from jobs.cli import main
from jobs.groups import user_folder

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("plain")]


def told(capsys, status, *words):
    """Level of the findings by part, and everything that was said of each part."""
    assert main(["doctor", "--json", *words]) == status
    findings = json.loads(capsys.readouterr().out)["findings"]
    return {
        finding["part"]: ({f["level"] for f in findings if f["part"] == finding["part"]}, finding["what"])
        for finding in findings
    }


def test_a_sound_cluster_is_found_sound_and_its_file_says_so(cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = user_folder() / "cluster/lab.yaml"
    sites.create(file, {"gpus_per_node": 0, "tasks_per_node": 2, "cpus_per_task": 1}, "")
    parts = "parts=[clock,filesystem,signal,requeue,array]"
    found = told(capsys, 0, "cluster=lab", f"runs={tmp_path}", parts)
    assert list(found) == ["clock", "filesystem", "signal", "requeue", "array"]
    assert all(levels == {"ok"} for levels, _ in found.values()), found
    learned = [line for line in file.read_text().splitlines() if line.startswith("# learned: ")]
    assert any("the warning comes in all 4 ranks" in line for line in learned)


def test_planted_faults_are_found(cluster, tmp_path, capsys):
    forbid = "cluster.setup=['scontrol update JobId=$SLURM_JOB_ID Requeue=0']"
    words = [
        "cluster=slurm",
        "cluster.cpus_per_task=1",
        "parts=[gpus,filesystem,requeue]",
        "folders=[/nowhere]",
        forbid,
        "cluster.gpus_per_node=1",
    ]
    found = told(capsys, 1, f"runs={tmp_path}", *words)
    assert all("change" in levels for levels, _ in found.values()), found
    assert "/nowhere" in found["filesystem"][1] and "does not" in found["requeue"][1]
