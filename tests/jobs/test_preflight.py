"""Before anything is queued all that is wrong is told at once."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import save_file

from jobs import room, train
from jobs.cli import main
from jobs.compose import composed, settings
from jobs.job import Writes
from jobs.preflight import of_one_machine
from jobs.room import refuse_full
from jobs.runfolder import Run
from mvdiff.errors import InputError
from mvdiff.events import read_events
from slurm.cluster import Cluster
from tests.cluster.lab import SMALL

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
    config = OmegaConf.create({})
    for free, refused in ((2_999_999, True), (3_000_000, False)):
        monkeypatch.setattr(room.shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        if refused:
            with pytest.raises(InputError, match="a checkpoint of this run takes"):
                refuse_full(train, config, run)
        else:
            refuse_full(train, config, run)


def test_a_first_checkpoint_is_four_times_the_weights_it_starts_from(tmp_path, monkeypatch):
    (tmp_path / "unet").mkdir()
    save_file({"a": np.zeros((250, 1000), np.float16)}, tmp_path / "unet/diffusion_pytorch_model.safetensors")
    run = Run(tmp_path / "new")
    config = OmegaConf.create({"train": {"trainable": "full"}, "model": {"pretrained": str(tmp_path)}})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=3_999_999))
    with pytest.raises(InputError, match=r"0\.0 GB free, and a checkpoint takes 0\.0 GB"):
        refuse_full(train, config, run)
    config.train.trainable = "lora"
    refuse_full(train, config, run)
    config.train.trainable = "full"
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=4_000_000))
    refuse_full(train, config, run)


def test_views_that_may_not_find_room_are_a_remark(tmp_path, monkeypatch):
    class Job:
        @staticmethod
        def writes(config, run):
            return Writes(5 * 10**9, "what is generated", certain=False)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    refuse_full(Job, None, Run(tmp_path))
    assert "what is generated may take 5.0 GB, and 1.0 GB are free" in room.tightness(Job, None, Run(tmp_path))
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=10**10))
    assert room.tightness(Job, None, Run(tmp_path)) is None


@pytest.mark.parametrize(("gib", "refused"), [(0.01, True), (8, False), (None, False)])
def test_a_model_that_the_site_s_gpus_cannot_hold_is_refused(gib, refused):
    config = composed("train", ["run=x", "data=y", "cluster=slurm", f"cluster.card={'null' if gib is None else gib}"])
    cluster = settings(Cluster, config.cluster, "cluster")
    if refused:
        with pytest.raises(InputError, match=r"train takes some .* GiB of a GPU.*check_memory=false"):
            room.refuse_too_large("train", config, cluster)
        config.check_memory = False
    room.refuse_too_large("train", config, cluster)


def test_a_time_limit_that_comes_before_the_end_is_remarked(tmp_path, monkeypatch, answer):
    monkeypatch.chdir(tmp_path)
    assert answer("synth", "run=lab", "samples=12", "size=64", "held_out=0", "cluster=here")[0] == 0
    words = ["train", "run=lab", "data=runs/lab/shards/train", "train=demo", "train.batch=4", "train.steps=100000000",
             "train.log_every=0.2", *SMALL, "cluster.time_min=1"]  # fmt: skip
    remark = "cluster.time_min=1 ends each start before that: it comes back to the queue and goes on"
    status, told = answer(*words)
    assert status == 0 and remark not in told, "nobody knows its pace yet"
    run = Run(tmp_path / "runs" / "lab")
    deadline = time.monotonic() + 60
    try:
        while not any(event["kind"] == "step" for event in read_events(run.jobs()[-1].events)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        assert answer("cancel", "lab")[0] == 0
    status, told = answer(*words, "--dry-run")
    assert status == 0
    assert "of training are left at the pace measured so far" in told and remark in told
