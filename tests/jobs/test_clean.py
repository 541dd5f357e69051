"""What mvdiff clean calls a leftover of training and of generation; what is of use stays."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.runfolder import Run
from mvdiff.train.checkpoint import CheckpointStore
from tests.jobs.test_rights import SMALL


@pytest.fixture
def listed(capsys):
    """{path: what} that a call of mvdiff clean lists or deletes."""

    def call(*words: str) -> dict[Path, str]:
        capsys.readouterr()
        assert main(["clean", *words, "--json"]) == 0
        return {Path(one["path"]): one["what"] for one in json.loads(capsys.readouterr().out)["leftovers"]}

    return call


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    assert main(["synth", "run=lab", "samples=4", "size=32", "held_out=0", "--wait"]) == 0
    return Run(tmp_path / "runs" / "lab")


def test_old_checkpoints_go_on_request_and_those_of_use_stay(lab, listed):
    train = ["train", "run=lab", "data=runs/lab/shards/train", "train.steps=4", "train.save_every=1",
             "train.keep_last=10", "train.batch=2", *SMALL, "--wait"]  # fmt: skip
    assert main(train) == 0
    store = CheckpointStore(lab.checkpoints)
    steps = store.steps()
    assert len(steps) >= 4
    used = steps[1]
    set_ = lab.results / "some"
    set_.mkdir(parents=True)
    (set_ / "set.json").write_text("{}")
    told = {"checkpoint": str(store.path(used)), "data": [], "unreadable": {}}
    (set_ / "asked.json").write_text(json.dumps(told))
    assert "old checkpoint" not in listed("lab").values()
    old = {path for path, what in listed("lab", "--checkpoints").items() if what == "old checkpoint"}
    assert old == {store.path(step) for step in steps if step not in (used, steps[-1])}
    listed("lab", "--checkpoints", "--yes")
    assert store.steps() == [used, steps[-1]]
    assert not list(lab.checkpoints.glob(".step-*")), "nothing is left of what was deleted"
    assert main(train) == 0, "the run is as done as before"


def test_superseded_attempts_go_and_rows_that_are_still_of_use_stay(lab, listed):
    train = ["train", "run=lab", "data=runs/lab/shards/train", "train.steps=1", "train.batch=2", *SMALL, "--wait"]
    assert main(train) == 0
    assert main(["generate", "run=lab", "data=runs/lab/shards/train", "generate.steps=1", "generate.slice=2",
                 "generate.batch=1", "--wait"]) == 0  # fmt: skip
    set_ = next(lab.results.iterdir())
    published, open_ = sorted(path.stem.removeprefix("slice-") for path in set_.glob("slice-*.h5"))
    (set_ / f"slice-{open_}.h5").unlink()
    attempts = {
        name: set_ / "attempts" / name for name in (f"{published}.1", f"{open_}.1", f"{open_}.2", f"{open_}~.1")
    }
    for path in attempts.values():
        path.mkdir(parents=True)
        (path / ".result.part").write_bytes(b"rows")
    found = {path.name for path, what in listed("lab").items() if what == "superseded attempt"}
    assert found == {f"{published}.1", f"{open_}.1"}
    listed("lab", "--yes")
    assert {path.name for path in (set_ / "attempts").iterdir()} == {f"{open_}.2", f"{open_}~.1"}
