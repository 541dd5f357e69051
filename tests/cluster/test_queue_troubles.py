"""A queue that is full, and one that is away: what is told, what goes on, and what is queued once."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from jobs import watch
from jobs.runfolder import Run
from jobs.watch import task_events
from mvdiff import ResultStore
from slurm import patience
from slurm.testbed import Testbed
from tests.cluster.chaos_lab import SMALL, Lab
from tests.cluster.conftest import _pointed_at, _require
from tests.cluster.lab import LOW, Training, in_background, last_job

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("troubles")]

MOST = 12
"""MaxJobCount of the small queue, which takes one member of an array less."""


@pytest.fixture(scope="module")
def small_bed(short_folder) -> Iterator[Testbed]:
    """One node whose queue is soon full."""
    _require(accounting=False)
    bed = Testbed(short_folder / "small")
    bed.up(nodes=1, gpus=0, max_jobs=MOST)
    yield bed
    bed.down()


@pytest.fixture
def small(small_bed, monkeypatch, eventually) -> Iterator[Testbed]:
    yield from _pointed_at(small_bed, monkeypatch, eventually)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    """Eight samples and a checkpoint."""
    return Lab.make(tmp_path_factory.mktemp("lab"), samples=8)


def set_limit(bed: Testbed, jobs: int) -> None:
    """As an administrator would; a queue remembers ended jobs for minutes, so that none of these makes room."""
    configuration = bed.folder / "etc/slurm.conf"
    edited = configuration.with_suffix(".edited")
    edited.write_text(re.sub("(?<=MaxJobCount=).*", str(jobs), configuration.read_text()))
    # every command of SLURM reads the file, and fails on half of it
    edited.replace(configuration)
    bed.stop_controller()
    bed.start_controller()


def test_a_full_queue_is_told_in_a_line_and_filled_up_when_it_has_room(
    small, lab, monkeypatch, capsys, answer, eventually
):
    monkeypatch.chdir(lab.folder)
    monkeypatch.setattr(watch, "MORE_S", 0.2)
    words = lab.words("full", *LOW, "cluster.gpus_per_node=0", "cluster.workers=4", "generate.slice=2",
                      "generate.steps=300")  # fmt: skip
    subprocess.run(
        ["sbatch", "--hold", "--output=/dev/null", f"--array=1-{MOST - 1}", "--wrap=true"], check=True,
        capture_output=True,
    )  # fmt: skip
    with monkeypatch.context() as impatient:
        impatient.setattr(patience, "PATIENCE_S", 2.0)
        status, told = answer(*words)
    asked, refusal = told.splitlines()[:-1], told.splitlines()[-1]
    assert status == 2
    assert refusal.startswith("mvdiff: SLURM takes no more jobs of yours now (")
    assert refusal.endswith(": start again when the queue is shorter")
    assert all("asking again in" in line for line in asked)
    assert not lab.run("full").path.exists()
    assert answer("status", "lab")[0] == 0, "a full queue answers"

    set_limit(small, MOST + 2)
    thread, ended = in_background([*words, "--wait"])
    folder = eventually(lambda: last_job(lab.run("full"), "generate"), 60)
    assert len(folder.submission().job_ids) == 2, "as many as there was room for"
    # a job whose step was being made when the controller started again was told "Requested nodes are busy" to its end
    eventually(lambda: sum(event["kind"] == "task started" for event in task_events(folder)) == 2, 60)
    set_limit(small, 100)
    thread.join(120)
    shown, told = capsys.readouterr()
    assert ended == [0], told
    assert "generate: the queue took 2 of 4 workers (Resource temporarily unavailable)" in shown
    assert "joins, now that there is room for it" in shown
    assert len(set(folder.submission().job_ids)) == 4
    assert len(ResultStore(lab.run("full").results)) == 8
    assert answer("status", "full", "--json")[1]["states"][0]["state"] == "done"


def test_work_goes_on_while_the_controller_is_away_and_what_wants_to_come_back_does(
    cluster, lab, monkeypatch, answer, eventually
):
    """Away for as long as it takes a submission to ask in vain, which is half a minute, and somewhat longer."""
    monkeypatch.chdir(lab.folder)
    data = f"data={lab.data}"
    assert answer(
        "train", "run=away", data, "train=demo", "train.steps=100000", "train.batch=4", "train.log_every=0.2", *SMALL,
        *LOW, "cluster.nodes=2", "cluster.gpus_per_node=1", "train.validation.every=0",
    )[0] == 0  # fmt: skip
    generating = lab.words("away-too", *LOW, "cluster.gpus_per_node=0", "cluster.workers=2", "generate.slice=1",
                           "generate.batch=1", "generate.steps=300")  # fmt: skip
    assert answer(*generating)[0] == 0
    training = Training(lab.run("away"), eventually)
    training.wait_for_steps(5)
    eventually(lambda: samples(lab.run("away-too"), answer)["running"], 60)

    before = samples(lab.run("away-too"), answer)["done"]
    cluster.stop_controller()
    meanwhile = lab.start("synth", "run=sent", "samples=8", "size=32", "held_out=0", *LOW, "cluster.gpus_per_node=0",
                          environment=os.environ)  # fmt: skip
    steps = len(training.since_start())
    eventually(lambda: len(training.since_start()) > steps, 60)
    for rank in (0, 1):
        training.kill(rank, signal.SIGUSR2)
    eventually(lambda: any(event["kind"] == "task stopped" for event in training.events()), 60)
    status, told = answer("status", "away", "--json")
    assert status == 0
    (state,) = told["states"]
    assert state["state"] == "unknown"
    assert state["why"].startswith("the queue does not answer; its newest sign of work came ")
    assert told["train"]["step"] >= 5, "the run folder answers"
    assert training.starts() == 1
    with pytest.raises(subprocess.TimeoutExpired):
        meanwhile.wait(25)
    cluster.start_controller()

    eventually(lambda: training.starts() == 2, 120)
    training.wait_for_steps(1)
    training.cancel()
    assert meanwhile.wait(120) == 0
    eventually(lambda: samples(lab.run("away-too"), answer)["done"] == 8, 120)
    assert before < 8
    assert len(lab.run("sent").jobs()) == 1
    (sent,) = lab.run("sent").jobs()[0].submission().job_ids
    queued = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--name=sent-synth", "--format=%i"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert queued.stdout.split() == [sent]


def test_while_the_controller_is_away_status_answers_and_what_needs_it_says_that_it_waits(
    cluster, lab, monkeypatch, answer, eventually
):
    monkeypatch.chdir(lab.folder)
    words = ["samples=100000", "size=32", "held_out=0", *LOW, "cluster.gpus_per_node=0"]
    for name in ("ended", "doomed"):
        assert answer("synth", f"run={name}", *words)[0] == 0
    assert answer("cancel", "ended")[0] == 0
    few = ["synth", "run=fine", "samples=4", *words[1:], "--wait"]
    assert answer(*few)[0] == 0
    eventually(lambda: answer("status", "ended", "--json")[1]["states"][0]["state"] == "cancelled", 60)
    eventually(lambda: answer("status", "doomed", "--json")[1]["states"][0]["state"] == "running", 60)

    cluster.stop_controller()
    for asked in (["status"], ["status", "doomed"], ["logs", "doomed"]):
        began = time.monotonic()
        status, told = answer(*asked)
        assert time.monotonic() - began < 12, "squeue alone would need half a minute"
        assert asked[0] == "logs" or (status == 0 and "the queue does not answer" in told)
    silent = "the queue does not answer (squeue did not answer within 5 s)"
    assert answer("status", "doomed")[1].splitlines()[-1] == f"{silent}: this is what the run folders say"
    assert answer("status", "doomed", "--json")[1]["queue_silent"] == silent
    assert answer("status", "--json")[1]["queue_silent"] == silent
    began = time.monotonic()
    assert answer("cancel", "fine") == (0, "nothing of fine runs or waits: 001-synth is done\n")
    assert time.monotonic() - began < 5, "its folder knows"
    waiting = [
        lab.start(verb, name, environment=os.environ) for verb, name in (("cancel", "doomed"), ("retry", "ended"))
    ]
    for verb, process in zip(("cancel", "retry"), waiting, strict=True):
        began = time.monotonic()
        assert process.stderr.readline() == f"[{verb}] SLURM has not answered yet: it is asked again for 120 s\n"
        assert time.monotonic() - began < 10
    with pytest.raises(subprocess.TimeoutExpired):
        waiting[0].wait(32)
    cluster.start_controller()

    for process in waiting:
        assert process.wait(90) == 0
    eventually(lambda: answer("status", "doomed", "--json")[1]["states"][0]["state"] == "cancelled", 60)
    assert answer("status", "--json")[1]["queue_silent"] is None
    assert answer("cancel", "ended", "--json")[1]["cancelled"].keys() == {"002-synth"}


def samples(run: Run, answer: Callable) -> dict[str, int]:
    """Counts of the run's only result set."""
    (counts,) = answer("status", run.name, "--json")[1]["generate"].values()
    return counts
