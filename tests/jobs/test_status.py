"""`mvdiff status RUN` from what lies in the run folder."""

import json

import pytest

from jobs.cli import main
from mvdiff.events import EventLog


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "lab" / "jobs" / "001-train"
    log = EventLog(folder / "events" / "7-0.jsonl")
    log.write("task started", rank=0)
    log.write("step", first=0, last=9, of=40, losses=[0.5] * 10, samples_per_second=24.0, data_wait=0.01)
    return folder


@pytest.mark.parametrize("name", ["lab", "runs/lab"])
def test_a_run_is_told_by_name_or_folder(folder, name, capsys):
    assert main(["status", name]) == 0
    told = capsys.readouterr().out
    assert "001-train" in told and "step 10/40  loss 0.5000  24.0 samples/s  data wait 1%" in told


def test_as_json(folder, capsys):
    assert main(["status", "lab", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == "lab" and told["train"]["step"] == 10


@pytest.mark.parametrize("words", [[], ["nope"], ["a", "b"], ["--nope"]])
def test_what_is_no_run_is_refused_in_one_line(tmp_path, monkeypatch, words, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
