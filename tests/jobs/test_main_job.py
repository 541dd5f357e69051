"""The main job on this machine alone: every arrow, one interruption, one killed worker."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from jobs.cli import main
from jobs.runfolder import JobFolder, Run
from jobs.watch import task_events
from mvdiff import ResultStore, ShardDataset
from mvdiff.events import read_events

SMALL = [
    "model.size=64", "model.new.patch=8", "model.new.widths=[16,32]", "model.new.latent_channels=8",
    "model.new.head_width=16", "model.new.context_width=16", "model.new.condition_grid=4",
]  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    assert main(["synth", "run=lab", "samples=16", "size=64", "held_out=8", "shard_samples=4", "--wait"]) == 0
    return Run(tmp_path / "runs" / "lab")


def when(condition, act, seconds=120.0) -> threading.Thread:
    """Call ``act`` with what ``condition`` returns as soon as that is true."""

    def wait():
        deadline = time.monotonic() + seconds
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found
        act(found)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def job(run: Run, name: str) -> JobFolder | None:
    return next((folder for folder in run.jobs() if folder.job == name), None)


def trains(run: Run):
    folder = job(run, "train")
    going = folder and any(event.get("last", 0) >= 5 for event in read_events(folder.events))
    return folder and going and task_events(folder)


def test_every_arrow_with_an_interruption_and_a_killed_worker(lab, capsys):
    def warn(events):
        for event in events:
            os.kill(event["pid"], signal.SIGUSR2)

    warned = when(lambda: trains(lab), warn)
    train = ["train", "run=lab", "data=runs/lab/shards/train", "train=demo", "train.steps=60", "train.batch=4",
             "train.log_every=0.2", *SMALL, "cluster.tasks_per_node=2", "--wait"]  # fmt: skip
    assert main(train) == 0
    warned.join()
    kinds = [event["kind"] for event in task_events(job(lab, "train")) if event["rank"] == 0]
    assert kinds == ["task started", "task stopped", "task started", "task finished"]

    killed = when(
        lambda: list(lab.results.glob("*/attempts/*")) and task_events(job(lab, "generate")),
        lambda events: os.kill(events[0]["pid"], signal.SIGKILL),
    )
    generate = ["generate", "run=lab", "data=runs/lab/shards/heldout", "generate.slice=2", "generate.batch=1",
                "generate.steps=25", "cluster.workers=2", "--wait"]  # fmt: skip
    assert main(generate) == 0
    killed.join()
    ends = [event["kind"] for event in task_events(job(lab, "generate"))]
    assert sorted(ends) == ["task finished"] * 2 + ["task started"] * 3, "the killed one came back"
    store, inputs = ResultStore(lab.results), ShardDataset(lab.shards / "heldout")
    assert sorted(store.ids()) == sorted(inputs.ids)

    assert main(["evaluate", "run=lab", "data=runs/lab/shards/heldout", "--wait"]) == 0
    assert f"<title>{lab.name}: generated views of " in (lab.report / "index.html").read_text()
    assert main(["verify", str(lab.path)]) == 0
    assert main(["export", str(lab.results), "out=views"]) == 0
    for sample_id, views in store:
        np.testing.assert_array_equal(np.load(f"views/{sample_id}.npy"), views)

    capsys.readouterr()
    for words in (train, generate):
        assert main([*words, "--json"]) == 0
        assert "job_ids" not in json.loads(capsys.readouterr().out), "what is done is not submitted again"
    private = [lab.path, *lab.path.glob("*"), *lab.path.glob("jobs/*/*")]
    others = {path: path.stat().st_mode & 0o077 for path in private if path.name != "code"}
    assert set(others.values()) == {0}, f"nobody else may look into a run: {others}"


def test_a_shard_with_a_flipped_bit_is_refused_before_anything_is_queued(lab, capsys):
    shard = next((lab.shards / "train").glob("*.h5"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)
    capsys.readouterr()
    assert main(["train", "run=lab", "data=runs/lab/shards/train", *SMALL]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(shard) in told
    assert job(lab, "train") is None
    assert main(["verify", str(lab.path)]) == 1
    assert str(shard) in capsys.readouterr().out


def test_another_truth_under_the_same_names_is_another_report(lab, tmp_path, capsys):
    train = ["train", "run=lab", "data=runs/lab/shards/train", "train.steps=1", *SMALL, "--wait"]
    assert main(train) == 0
    generate = ["generate", "run=lab", "data=runs/lab/shards/heldout", "--wait"]
    for key, says in (("generate.steps=5000", "1 to 1000"), ("limit=0", "limit=0"), ("generate.guidance=nan", "nan")):
        capsys.readouterr()
        assert main([*generate, key]) == 2
        assert says in capsys.readouterr().err
    assert not lab.results.exists(), "a refusal writes nothing"
    capsys.readouterr()
    assert main([*train, "train.seed=5"]) == 2
    assert "train.seed is 0 there, 5 here" in capsys.readouterr().err
    assert main(generate) == 0
    evaluate = ["evaluate", "run=lab", "data=truth", "--wait"]
    shutil.copytree(lab.shards / "heldout", tmp_path / "truth")
    assert main(evaluate) == 0
    capsys.readouterr()
    assert main(evaluate) == 0
    assert "up to date" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "truth")
    shutil.copytree(lab.shards, tmp_path / "truth")
    assert main(evaluate) == 0
    assert "up to date" not in capsys.readouterr().out


def test_of_several_result_sets_the_one_that_is_scored_is_told(lab, answer):
    assert answer("train", "run=lab", "data=runs/lab/shards/train", "train.steps=1", *SMALL, "--wait")[0] == 0
    generate = ["generate", "run=lab", "data=runs/lab/shards/heldout", "generate.steps=1", "limit=1", "--wait"]
    evaluate = ["evaluate", "run=lab", "data=runs/lab/shards/heldout", "cluster=here"]
    assert answer(*generate)[0] == 0
    (first,) = (file.parent for file in lab.results.glob("*/set.json"))
    status, told = answer(*evaluate)
    assert status == 0 and "takes" not in told, "there is but one"
    assert answer(*generate, "generate.guidance=2")[0] == 0
    (second,) = {file.parent for file in lab.results.glob("*/set.json")} - {first}
    status, told = answer(*evaluate)
    assert status == 0 and told.count("mvdiff evaluate: takes ") == 1
    assert f"takes runs/lab/results/{second.name} (" in told and "guidance 2" in told
    assert "asked for last of 2 result sets; results=FOLDER takes another" in told

    assert answer(*generate)[0] == 0, "nothing is made, and it was asked for"
    status, told = answer(*evaluate, "--json")
    assert status == 0 and (told["state"], told["results"]) == ("done", str(first))
    status, told = answer(*evaluate, f"results={second}")
    assert status == 0 and "takes" not in told


def test_what_must_come_first_is_said(lab, capsys):
    for words, cure in (
        (["generate", "run=lab", "data=runs/lab/shards"], "mvdiff train run=lab"),
        (["evaluate", "run=lab", "data=runs/lab/shards"], "mvdiff generate run=lab"),
    ):
        capsys.readouterr()
        assert main(words) == 2
        assert cure in capsys.readouterr().err
