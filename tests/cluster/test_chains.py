"""Jobs that follow one another on a real SLURM, queued by one command before the first has begun."""

import json
import subprocess

import pytest

from jobs.cli import main
from jobs.runfolder import Run
from mvdiff import ResultStore
from tests.cluster.lab import LOW, SMALL

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys) -> Run:
    monkeypatch.chdir(tmp_path)
    assert main(["synth", "run=lab", "samples=12", "size=64", "held_out=4", "--wait"]) == 0
    capsys.readouterr()
    return Run(tmp_path / "runs" / "lab")


def words(*of_training: str) -> list[str]:
    return [
        "train", "run=lab", "data=runs/lab/shards/train", "train=demo", "train.batch=4", "train.steps=4", *SMALL, *LOW,
        "cluster.gpus_per_node=1", "check_on_node=true", *of_training,
        "then", "generate", "run=lab", "data=runs/lab/shards/heldout", "generate.slice=2", "generate.batch=1",
        "generate.steps=2", *LOW, "cluster.gpus_per_node=0", "cluster.workers=2",
        "then", "evaluate", "run=lab", "data=runs/lab/shards/heldout", *LOW, "cluster.gpus_per_node=0", "--json",
    ]  # fmt: skip


def test_from_shards_to_the_report_in_one_command(cluster, lab, capsys):
    assert main([*words(), "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)["jobs"]
    assert [one["options"][:1] for one in shown] == [
        [], ["--dependency=afterok:<train>"], ["--dependency=afterok:<train>,afterany:<generate>"],
    ]  # fmt: skip
    assert not [folder for folder in lab.jobs() if folder.job != "synth"], "nothing was made"

    assert main([*words(), "--wait"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(one["job"], one["state"]) for one in answer["jobs"]] == [
        ("train", "done"), ("generate", "done"), ("evaluate", "done"),
    ]  # fmt: skip
    assert len(ResultStore(lab.results)) == 4
    assert 0 <= answer["foreground_iou"] <= 1
    assert [[one.path.name for one in folder.follows()] for folder in lab.jobs()[1:]] == [
        [], ["002-train"], ["003-generate"],
    ]  # fmt: skip
    assert lab.jobs()[2].config().checkpoint.startswith(str(lab.checkpoints)), "the choice is written down"


def test_what_follows_a_failed_job_does_not_wait_for_ever(cluster, lab, capsys, eventually):
    # Nodes have no such module: the batch script ends before the job has begun.
    assert main(words("cluster.setup=['exit 3']")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["state"] == "submitted"
    eventually(lambda: not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout, 40)
    assert main(["status", "lab", "--json"]) == 0
    states = {one["job"]: one for one in json.loads(capsys.readouterr().out)["states"]}
    assert states["002-train"]["state"] == "failed"
    for name, before in (("003-generate", "002-train"), ("004-evaluate", "003-generate")):
        assert states[name]["state"] == "cancelled"
        assert states[name]["why"] == f"never began: it was to follow {before}"


def test_everything_is_refused_before_anything_is_queued(cluster, lab, capsys):
    assert main([*words(), "results=nowhere", "evaluate.nope=1"]) == 2
    assert not [folder for folder in lab.jobs() if folder.job != "synth"]
