"""Before anything is queued all that is wrong is told at once."""

import json
import shutil
from pathlib import Path

import pytest

from jobs import preflight
from jobs.cli import main
from jobs.preflight import of_one_machine
from jobs.runfolder import Run
from mvdiff.errors import InputError

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
server@tcp:/scratch /scratch lustre rw 0 0
tmpfs /home/ann/fast tmpfs rw 0 0
"""


def refused(words: list[str], capsys) -> list[str]:
    assert main(words) == 2
    return capsys.readouterr().err.splitlines()


def test_settings_weights_and_data_are_refused_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = refused(
        ["train", "run=a", "data=nowhere", "model=zero123plus-v1.2", "model.pretrained=no/weights",
         "train.batch=5", "cluster.tasks_per_node=2"], capsys,
    )  # fmt: skip
    assert len(told) == 3, told
    for word in ("no/weights", "train.batch", "nowhere"):
        assert sum(word in line for line in told) == 1, (word, told)
    assert not (tmp_path / "runs").exists()


def test_a_wrong_model_does_not_hide_missing_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, data = refused(["train", "run=x", "data=y", "model.new.patch=0"], capsys)
    assert "model.new.patch=0" in model
    assert "y does not exist" in data


def test_a_missing_checkpoint_does_not_hide_wrong_settings_and_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = refused(["generate", "run=a", "data=nowhere", "limit=0"], capsys)
    assert len(told) == 3, told
    assert main(["generate", "run=a", "data=nowhere", "limit=0", "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["errors"]) == 3


def test_every_job_of_a_chain_is_looked_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = refused(
        ["synth", "run=a", "samples=12", "size=64", "held_out=4",
         "then", "train", "run=a", "data=runs/a/shards/train", "train.batch=0",
         "then", "generate", "run=a", "data=elsewhere"], capsys,
    )  # fmt: skip
    assert len(told) == 2, told
    assert "train.batch" in told[0]
    assert "elsewhere" in told[1]
    assert not (tmp_path / "runs").exists(), "the first job did not run"


@pytest.mark.parametrize(
    ("path", "alone"),
    [("/data/mice", True), ("/home/ann", False), ("/home/ann/fast/x", True), ("/scratch/x", False), ("/tmp/x", True)],
)
def test_file_systems_of_one_machine(path, alone):
    assert of_one_machine(Path(path), MOUNTS) is alone


def test_a_disk_on_which_the_next_checkpoint_would_not_fit_is_refused(tmp_path, monkeypatch):
    run = Run(tmp_path / "mice")
    newest = run.checkpoints / "step-00000020"
    newest.mkdir(parents=True)
    (newest / "weights").write_bytes(bytes(3_000_000))
    usage = shutil.disk_usage(tmp_path)
    for free, refused in ((2_999_999, True), (3_000_000, False)):
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        findings = preflight.Findings()
        findings.look(lambda: preflight.refuse_full("train", run))
        if refused:
            with pytest.raises(InputError, match="a checkpoint of this run takes"):
                findings.refuse()
        else:
            findings.refuse()
