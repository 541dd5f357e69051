"""Arrays that are too long, limits, an sbatch without an answer, nodes to keep away from: on a real SLURM."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import synth, watch
from jobs.cli import main
from jobs.runfolder import Run
from slurm.errors import RequestError
from slurm.exclusion import dispensable
from slurm.queue import nodes
from slurm.submission import Submission, states
from slurm.submitter import Submitter
from tests.cluster.lab import in_background, last_job
from tests.site import site

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("arrays")]

CALL = """
    import os
    from pathlib import Path

    class Note:
        def __init__(self, folder):
            self.folder = folder

        def __call__(self, worker=0):
            with (Path(self.folder) / f"worker-{worker}").open("a") as file:
                file.write(os.environ["SLURM_JOB_ID"] + "\\n")
"""
QUICK = site(workers=12, time_min=5, partition="low")


class Lab:
    """Calls that note on disk which worker ran, and what the person who submits them is told."""

    def __init__(self, folder: Path) -> None:
        self.logs, self.code, self.notes = folder / "logs", folder / "code", folder / "notes"
        for path in (self.logs, self.code, self.notes):
            path.mkdir()
        (self.code / "note_job.py").write_text(textwrap.dedent(CALL))
        self.told: list[str] = []

    def submitter(self) -> Submitter:
        return Submitter(QUICK, "lab-note", self.logs, self.code, 30, 1, self.told.append)

    def submit(self, workers: int | None, **more) -> Submission:
        import note_job

        return self.submitter().submit(note_job.Note(str(self.notes)), workers, **more)

    def ran(self) -> dict[str, int]:
        return {path.name: len(path.read_text().split()) for path in self.notes.iterdir()}


@pytest.fixture
def lab(limited_cluster, tmp_path, monkeypatch) -> Iterator[Lab]:
    made = Lab(tmp_path)
    monkeypatch.syspath_prepend(str(made.code))
    yield made
    sys.modules.pop("note_job", None)


def queue(*words: str) -> list[str]:
    return subprocess.run(["squeue", "--noheader", "--array", *words], capture_output=True, text=True).stdout.split()


def sacctmgr(*words: str) -> None:
    subprocess.run(["sacctmgr", "--immediate", *words], check=True, capture_output=True)


def hold(count: int) -> str:
    """Occupy ``count`` places in the queue; the id of the array that does."""
    done = subprocess.run(
        ["sbatch", "--parsable", "--hold", "--output=/dev/null", f"--array=0-{count - 1}", "--wrap=true"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def submit_limit(limited_cluster, eventually) -> Iterator[None]:
    """Seven jobs of this user at most."""
    sacctmgr("modify", "user", "root", "set", "MaxSubmitJobs=7")
    shown = ["scontrol", "show", "assoc_mgr", "users=root", "flags=assoc"]
    eventually(lambda: "MaxSubmitJobs=7(" in subprocess.run(shown, capture_output=True, text=True).stdout, 10)
    yield
    sacctmgr("modify", "user", "root", "set", "MaxSubmitJobs=-1")
    eventually(lambda: "MaxSubmitJobs=7(" not in subprocess.run(shown, capture_output=True, text=True).stdout, 10)


def test_an_array_that_is_too_long_becomes_several(lab, eventually):
    submitter = lab.submitter()
    submitter.check(12)
    assert re.findall(r"--array=(\S+)", submitter.script(12)) == ["0-4%5", "0-4%5", "0-1%2"]
    submission = lab.submit(12)
    first, second, third = (id_.partition("_")[0] for id_ in submission.job_ids[::5])
    assert submission.shown == f"{first}_[0-4], {second}_[0-4], {third}_[0-1]"
    eventually(lambda: {state.word for state in states(submission).values()} == {"COMPLETED"}, 60)
    assert lab.ran() == {f"worker-{worker}": 1 for worker in range(12)}
    assert not lab.told


@pytest.fixture
def closed(limited_cluster) -> Iterator[None]:
    """A partition that queues jobs and starts none."""
    subprocess.run(["scontrol", "update", "PartitionName=low", "State=DOWN"], check=True)
    yield
    subprocess.run(["scontrol", "update", "PartitionName=low", "State=UP"], check=True)


def test_a_limit_takes_as_many_workers_as_fit(lab, submit_limit, closed):
    hold(1)
    lab.submitter().check(12)
    submission = lab.submit(12, fewer=True)
    assert len(set(submission.job_ids)) == 6
    (told,) = lab.told
    assert told.startswith("the queue took 6 of 12 workers (AssocMaxSubmitJobLimit)")
    with pytest.raises(
        RequestError, match=r"SLURM takes no more jobs of yours now \(AssocMaxSubmitJobLimit\)"
    ) as refusal:
        lab.submit(12, fewer=True)
    assert "\n" not in str(refusal.value)
    with pytest.raises(RequestError, match="SLURM takes no more jobs of yours now"):
        lab.submitter().check(12)
    assert not list(lab.logs.glob(".calls-*")), "nothing of the refused ones is left"


def test_workers_with_shares_of_their_own_are_queued_all_or_none(lab, submit_limit, eventually):
    held = hold(3)
    with pytest.raises(RequestError, match=r"only 4 of 6 workers now .*: say cluster.workers=4"):
        lab.submit(6)
    eventually(lambda: {name.partition("_")[0] for name in queue("--format=%i")} == {held}, 10)


def test_the_limit_of_a_qos_counts_the_same(lab, limited_cluster, monkeypatch):
    sacctmgr("add", "qos", "small", "set", "MaxSubmitJobsPerUser=3")
    sacctmgr("modify", "user", "root", "set", "qos+=small", "defaultqos=small")
    try:
        assert len(lab.submit(12, fewer=True).job_ids) == 3
        assert "(QOSMaxSubmitJobPerUserLimit)" in lab.told[0]
    finally:
        sacctmgr("modify", "user", "root", "set", "defaultqos=normal", "qos=normal")


UNHEARD = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'


def first_sbatch(folder: Path, monkeypatch, does: str) -> Path:
    """Put a program before sbatch which ``does`` something else the first time; the file of all calls' arguments."""
    calls = folder / "calls"
    (folder / "bin").mkdir()
    program = folder / "bin" / "sbatch"
    program.write_text(
        f'#!/bin/sh\nreal={shutil.which("sbatch")}\necho "$@" >> {calls}\n'
        f'if [ "$(wc -l < {calls})" = 1 ]; then {does}; fi\nexec "$real" "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return calls


HEARD = f'"$real" "$@" >/dev/null; {UNHEARD}'


@pytest.mark.parametrize(("does", "sent", "workers"), [(UNHEARD, 2, 3), (HEARD, 1, 3), (HEARD, 1, None)])
def test_an_sbatch_without_an_answer_queues_the_job_once(lab, tmp_path, monkeypatch, eventually, does, sent, workers):
    calls = first_sbatch(tmp_path, monkeypatch, does)
    submission = lab.submit(workers)
    assert len(calls.read_text().splitlines()) == sent
    (told,) = lab.told
    assert "Socket timed out on send/recv operation" in told
    eventually(lambda: all(state.ended for state in states(submission).values()), 30)
    assert set(lab.ran().values()) == {1}
    assert len(lab.ran()) == (workers or 1)
    mine = queue("--states=all", "--format=%i %Z", "--name=lab-note")
    assert sum(word == str(Path.cwd()) for word in mine) >= len(submission.job_ids)


def test_a_double_that_is_accepted_too_late_does_no_work(lab, tmp_path, monkeypatch, eventually):
    late = f'(sleep 3; "$real" "$@" > {tmp_path}/late) >/dev/null 2>&1 & {UNHEARD}'
    first_sbatch(tmp_path, monkeypatch, late)
    submission = lab.submit(None)
    eventually(lambda: (tmp_path / "late").exists() and (tmp_path / "late").read_text().strip(), 15)
    double = (tmp_path / "late").read_text().strip()
    assert double not in submission.job_ids
    log = submission.log(double)
    eventually(lambda: log.exists() and "Loading pickle" in log.read_text(), 30)
    eventually(lambda: all(state.ended for state in states(submission).values()), 30)
    assert lab.ran() == {"worker-0": 1}


def test_a_controller_that_is_away_for_a_moment_is_waited_for(lab, limited_cluster, eventually):
    limited_cluster.stop_controller()
    back = threading.Timer(2, limited_cluster.start_controller)
    back.start()
    lab.submitter().check(2)
    submission = lab.submit(2)
    back.join()
    eventually(lambda: lab.ran() == {"worker-0": 1, "worker-1": 1}, 30)
    assert len(submission.job_ids) == 2
    eventually(lambda: nodes("low") == {"n1": True, "n2": True}, 60)


def test_only_nodes_that_can_be_spared_are_left_out(limited_cluster, eventually):
    def left_out(*bad: str, **changes) -> list[str]:
        return dispensable(dataclasses.replace(QUICK, **changes), bad)

    assert left_out("n2", "n7", "", "n1,n2") == ["n2"]
    assert left_out("n2", partition=None) == ["n2"]
    assert left_out("n2", exclude="n[2-3]") == []
    assert left_out("n1", "n2") == []
    assert left_out("n2", nodes=2) == []
    assert left_out("n2", exclude="n1") == []
    limited_cluster.drain_node("n1")
    try:
        assert left_out("n2") == [], "the other one takes no jobs"
    finally:
        limited_cluster.recover_node("n1")
        eventually(lambda: nodes("low") == {"n1": True, "n2": True}, 60)


SYNTH = ["synth", "run=mice", "samples=8", "size=64", "held_out=0", "cluster=slurm", "cluster.gpus_per_node=0",
         "cluster.cpus_per_task=1"]  # fmt: skip


def test_a_node_that_the_job_calls_bad_is_left_out_and_told(limited_cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bad = {"n2": "3 workers ended there", "gone": "no reason"}
    monkeypatch.setattr(synth, "bad_nodes", lambda config, run: bad, raising=False)
    assert main([*SYNTH, "--dry-run"]) == 0
    script, told = capsys.readouterr()
    assert told == "synth: left out: node n2 (3 workers ended there)\n"
    assert "#SBATCH --exclude=n2\n" in script
    bad["n1"] = "2 workers ended there"
    assert main([*SYNTH, "--dry-run"]) == 0
    assert "exclude" not in capsys.readouterr().out


def test_more_workers_join_when_there_is_room_for_them(submit_limit, tmp_path, monkeypatch, capsys, eventually):
    """With a stand-in for generation: shares of shards, each of which needs its worker."""
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "runs" / "mice")
    words = [*SYNTH, "shard_samples=4", "samples=12", "cluster.workers=3"]
    held = hold(5)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "say cluster.workers=2" in told
    assert not run.path.exists(), "nothing is left of what was not submitted"

    monkeypatch.setattr(synth, "CLAIMS_WORK", True, raising=False)
    monkeypatch.setattr(watch, "MORE_S", 0.2)
    thread, status = in_background([*words, "--wait"])
    folder = eventually(lambda: last_job(run, "synth"), 60)
    assert len(folder.submission().job_ids) == 2
    subprocess.run(["scancel", held], check=True)
    thread.join(60)
    shown = capsys.readouterr().out
    assert "the queue took 2 of 3 workers (AssocMaxSubmitJobLimit)" in shown
    assert "joins, now that there is room for it" in shown
    assert status == [0]
    assert len(set(folder.submission().job_ids)) == 3
