"""`mvdiff doctor cluster=SITE` on a real SLURM, with faults planted that it has to find."""

import json
import shutil

import pytest

from jobs import sites
from jobs.cli import main
from jobs.groups import user_folder
from tests.cluster.lab import SMALL

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


def test_a_folder_that_nodes_were_seen_to_share_is_not_doubted_again(cluster, tmp_path, capsys, monkeypatch, answer):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    lab, doubt = tmp_path / "lab", "on a disk of this machine, as it seems"
    lab.mkdir()
    monkeypatch.chdir(lab)
    file = user_folder() / "cluster/lab.yaml"
    sites.create(file, {"gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "shared": ["/data"]}, "")
    assert answer("synth", "run=mice", "samples=4", "size=64", "held_out=0", "cluster=here")[0] == 0
    words = [
        "train",
        "run=mice",
        "data=runs/mice/shards/train",
        *SMALL,
        "train=demo",
        "train.batch=4",
        "cluster=lab",
        "--dry-run",
    ]
    status, told_before = answer(*words)
    assert status == 0 and told_before.count(doubt) == 1, told_before
    assert "ok" in told(capsys, 0, "cluster=lab", "parts=[filesystem]")["filesystem"][0]
    assert f"shared: [/data, {lab / 'runs'}]" in file.read_text()
    status, told_after = answer(*words)
    assert status == 0 and doubt not in told_after
    elsewhere = tmp_path / "elsewhere.h5"
    shutil.copy(next((lab / "runs/mice/shards/train").glob("*.h5")), elsewhere)
    assert f"{elsewhere}: {doubt}" in answer(*words[:2], f"data={elsewhere}", *words[3:])[1]
    told(capsys, 0, "cluster=lab", "parts=[filesystem]")
    assert file.read_text().count(str(lab / "runs")) - file.read_text().count("# learned") == 1, "once is enough"


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
