"""Who may read and write what a run's jobs leave behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.runfolder import Run

SMALL = [
    "model.size=32", "model.new.patch=8", "model.new.widths=[16,32]", "model.new.latent_channels=8",
    "model.new.head_width=16", "model.new.context_width=16", "model.new.condition_grid=4",
]  # fmt: skip
SYNTH = ["synth", "run=lab", "samples=4", "size=32", "held_out=0", "--wait"]


@pytest.fixture(autouse=True)
def lax_umask(tmp_path, monkeypatch):
    """The rights are the program's own doing, not what a careful person's shell would leave."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o002)
    yield
    os.umask(before)


def modes(path: Path) -> dict[bool, set[str]]:
    """{whether a folder: the modes} of all that lies in ``path``, itself included."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for one in (path, *path.rglob("*")):
        found[one.is_dir()].add(f"{stat.S_IMODE(one.stat().st_mode):o}")
    return found


def test_a_run_is_its_owners_alone(tmp_path):
    assert main(SYNTH) == 0
    assert modes(tmp_path / "runs" / "lab") == {True: {"700"}, False: {"600"}}


def test_a_shared_run_is_read_by_the_group_and_stays_so(tmp_path, capsys):
    run = Run(tmp_path / "runs" / "lab")
    assert main([*SYNTH, "group_readable=true"]) == 0
    train = ["train", "run=lab", "data=runs/lab/shards/train", "train.steps=2", "train.batch=2", *SMALL, "--wait"]
    assert main(train) == 0
    assert modes(run.path) == {True: {"750"}, False: {"640"}}
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o750, "the way to it is open too"
    (tmp_path / "runs").chmod(0o700)
    capsys.readouterr()
    assert main([*train, "--json"]) == 0
    assert "runs is closed to the group: chmod g+x runs" in capsys.readouterr().err


def test_a_run_may_be_opened_and_closed_later(tmp_path):
    assert main(SYNTH) == 0
    assert main([*SYNTH, "group_readable=true"]) == 0
    assert modes(tmp_path / "runs" / "lab") == {True: {"750"}, False: {"640"}}
    assert main([*SYNTH, "group_readable=false"]) == 0
    assert stat.S_IMODE((tmp_path / "runs" / "lab").stat().st_mode) == 0o700


def test_calls_that_others_could_have_written_are_not_unpickled(tmp_path):
    folder = tmp_path / "lab" / "jobs" / "001-synth"
    logs = folder / "logs"
    logs.mkdir(parents=True, mode=0o700)
    environment = {
        "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7", "SUBMITIT_LOCAL_GLOBALID": "0",
        "SUBMITIT_LOCAL_LOCALID": "0", "SUBMITIT_LOCAL_NODEID": "0", "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    }  # fmt: skip
    harm = logs / "7_submitted.pkl"
    harm.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "harm").encode() + b"'\ntR.")

    def start() -> str:
        words = [sys.executable, "-m", "slurm.guard", str(logs)]
        ended = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
        assert ended.returncode == 1
        return ended.stderr

    for opened in (logs, folder, folder.parent, folder.parent.parent, harm):
        before = opened.stat().st_mode
        opened.chmod(before | stat.S_IWGRP)
        assert f"{opened} can be written to by others" in start()
        assert not (tmp_path / "harm").exists()
        assert (logs / "gave-up-7-0").exists(), "the job does not start again"
        opened.chmod(stat.S_IMODE(before) & 0o700)
    os.chown(folder, 12345, -1)
    assert f"{folder} belongs to another user" in start()
    os.chown(folder, 0, -1)
    start()
    assert (tmp_path / "harm").exists(), "which is what an unpickled call may do"
