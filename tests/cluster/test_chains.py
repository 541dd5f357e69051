"""Jobs that follow one another on a real SLURM, queued by one command before the first has begun."""

import json
import os
import signal
import subprocess

import pytest

from jobs.cli import main
from jobs.runfolder import Run
from jobs.watch import task_events
from mvdiff import ResultStore
from tests.cluster.lab import LOW, SMALL, Training, last_job, take_the_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("chains")]


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys) -> Run:
    """In a folder whose name a shell would trip over."""
    place = tmp_path / 'it\'s $(false) `x` "ü" & ;'
    place.mkdir()
    monkeypatch.chdir(place)
    assert main(["synth", "run=lab", "samples=12", "size=64", "held_out=4", "--wait"]) == 0
    capsys.readouterr()
    return Run(place / "runs" / "lab")


GENERATE = [
    "generate", "run=lab", "data=runs/lab/shards/heldout", "generate.slice=2", "generate.batch=1", "generate.steps=2",
    *LOW, "cluster.gpus_per_node=0", "cluster.workers=2",
]  # fmt: skip
EVALUATE = ["evaluate", "run=lab", "data=runs/lab/shards/heldout", *LOW, "cluster.gpus_per_node=0", "--json"]


def words(*of_training: str, of_generation: tuple[str, ...] = ()) -> list[str]:
    return [
        "train", "run=lab", "data=runs/lab/shards/train", "train=demo", "train.batch=4", "train.steps=4", *SMALL, *LOW,
        "cluster.gpus_per_node=1", "check_on_node=true", *of_training, "then", *GENERATE, *of_generation,
        "then", *EVALUATE,
    ]  # fmt: skip


def queue_is_empty() -> bool:
    return not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def states(answer) -> dict[str, dict]:
    return {one["job"]: one for one in answer("status", "lab", "--json")[1]["states"]}


def starts(run: Run, job: str) -> list[tuple[str, int]]:
    """Job and number of every start of the newest job of that name."""
    folder = last_job(run, job)
    return [(event["job_id"], event["restart"]) for event in task_events(folder) if event["kind"] == "task started"]


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


def test_what_follows_a_failed_job_does_not_wait_for_ever(cluster, lab, answer, eventually):
    # Nodes have no such module: the batch script ends before the job has begun.
    status, sent = answer(*words("cluster.setup=['exit 3']"))
    assert status == 0 and sent["state"] == "submitted"
    eventually(queue_is_empty, 40)
    told = states(answer)
    assert told["002-train"]["state"] == "failed"
    for name, before in (("003-generate", "002-train"), ("004-evaluate", "003-generate")):
        assert told[name]["state"] == "cancelled"
        assert told[name]["why"] == f"never began: it was to follow {before}"

    mended = ["retry", "lab", "cluster.setup=[]", "generate.steps=3", "--json"]
    shown = answer(*mended, "--dry-run")[1]["jobs"]
    assert [(one["job"], one["options"][:1]) for one in shown] == [
        ("train", []), ("generate", ["--dependency=afterok:<train>"]),
        ("evaluate", ["--dependency=afterok:<train>,afterany:<generate>"]),
    ]  # fmt: skip
    assert len(lab.jobs()) == 4, "nothing was made"
    status, sent = answer(*mended)
    assert status == 0 and [(one["job"], one["state"]) for one in sent["jobs"]] == [
        ("train", "submitted"), ("generate", "submitted"), ("evaluate", "submitted"),
    ]  # fmt: skip
    assert [[one.path.name for one in folder.follows()] for folder in lab.jobs()[4:]] == [
        [], ["005-train"], ["006-generate"],
    ]  # fmt: skip
    assert [folder.config().get("generate", {}).get("steps") for folder in lab.jobs()[4:]] == [None, 3, None]
    eventually(queue_is_empty, 120)
    assert {state["state"] for name, state in states(answer).items() if name > "005"} == {"done"}
    assert (lab.report / "index.html").exists()
    assert answer("retry", "lab")[1] == "nothing of lab failed\n"


def test_of_an_array_at_the_head_of_a_chain_only_the_share_that_failed_is_done_again(cluster, lab, answer, eventually):
    there = "cluster.setup=['test \"$SLURM_ARRAY_TASK_ID\" != 1 || exit 3']"
    synth = [
        "synth",
        "run=two",
        "samples=8",
        "size=64",
        "held_out=0",
        "shard_samples=2",
        *LOW,
        "cluster.workers=2",
        there,
    ]
    train = [word.replace("lab", "two") for word in words()[: words().index("then")]]
    assert answer(*synth, "then", *train)[0] == 0
    eventually(queue_is_empty, 60)
    run = Run(lab.path.parent / "two")
    made = {path: path.stat().st_mtime_ns for path in (run.shards / "train").glob("*.h5")}
    assert len(made) == 2
    status, told = answer("retry", "two", "cluster.setup=[]", "--wait", "--json")
    assert status == 0 and [(one["job"], one["state"]) for one in told["jobs"]] == [
        ("synth", "done"), ("train", "done"),
    ]  # fmt: skip
    assert run.jobs()[2].submission().workers == [1]
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(list((run.shards / "train").glob("*.h5"))) == 4


def test_a_training_that_comes_back_and_a_worker_that_never_works_hold_nothing_up(cluster, lab, answer, eventually):
    """The node of the second worker lacks a module: the first does its samples too, although it is warned and has to
    come back."""
    bad_node = "cluster.setup=['test \"$SLURM_ARRAY_TASK_ID\" != 1 || exit 3']"
    long = ["train.steps=200", "train.log_every=0.2", "train.validation.every=0"]
    assert answer(*words(*long, of_generation=(bad_node, "generate.steps=400")))[0] == 0
    training = Training(lab, eventually)
    training.wait_for_steps(4)
    take_the_cluster()
    folder = last_job(lab, "generate")
    first, second = folder.submission().job_ids
    eventually(lambda: starts(lab, "generate"), 120)
    assert training.starts() == 2
    os.kill(task_events(folder)[0]["pid"], signal.SIGUSR2)
    eventually(queue_is_empty, 120)
    assert starts(lab, "generate") == [(first, 0), (first, 1)]
    assert len(starts(lab, "evaluate")) == 1
    began = {job: min(event["time"] for event in task_events(last_job(lab, job))) for job in ("generate", "evaluate")}
    ended = {job: max(event["time"] for event in task_events(last_job(lab, job))) for job in ("train", "generate")}
    assert ended["train"] < began["generate"] and ended["generate"] < began["evaluate"]
    assert folder.config().checkpoint.endswith("step-00000200"), "the finished weights"
    assert len(ResultStore(lab.results)) == 4
    told = states(answer)
    assert told["003-generate"]["jobs"][second] == "FAILED"
    assert {name: one["state"] for name, one in told.items() if name != "001-synth"} == {
        "002-train": "done", "003-generate": "done", "004-evaluate": "done",
    }  # fmt: skip
    assert (lab.report / "index.html").exists()


def test_what_follows_a_generation_that_left_samples_undone_says_so(cluster, lab, answer, eventually):
    here = words("cluster=here", "check_on_node=false")
    assert answer(*here[: here.index("then")])[0] == 0
    slow = ["generate.steps=1000", "generate.guidance=3"]
    assert answer(*GENERATE, *slow, "then", *EVALUATE)[0] == 0
    eventually(lambda: last_job(lab, "generate") and len(starts(lab, "generate")) == 2, 60)
    assert answer("cancel", "lab", "--job", "evaluate")[0] == 0
    status, told = answer("retry", "lab")
    assert status == 0 and "003-generate is running and left alone: what follows it waits for it" in told
    assert [one.path.name for one in lab.jobs()[3:]] == ["004-evaluate", "005-evaluate"]
    assert [one.path.name for one in lab.jobs()[4].follows()] == ["003-generate"]
    root = last_job(lab, "generate").submission().job_ids[0].partition("_")[0]
    subprocess.run(["scancel", root], check=True)
    eventually(queue_is_empty, 60)
    failed = states(answer)["005-evaluate"]
    assert failed["state"] == "failed"
    assert failed["failure"]["error"] == ("003-generate of run lab left 4 of 4 samples undone: mvdiff retry lab")
    assert not lab.report.exists()

    status, told = answer("retry", "lab", "generate.steps=2", "--wait", "--json")
    assert status == 0 and [(one["job"], one["state"]) for one in told["jobs"]] == [
        ("generate", "done"), ("evaluate", "done"),
    ]  # fmt: skip
    assert 0 <= told["foreground_iou"] <= 1


def test_everything_is_refused_before_anything_is_queued(cluster, lab, capsys):
    assert main([*words(), "results=nowhere", "evaluate.nope=1"]) == 2
    assert not [folder for folder in lab.jobs() if folder.job != "synth"]
