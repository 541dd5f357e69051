"""logs, cancel, retry, show and clean on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.cli import LOOKING_AFTER, main
from jobs.failure import first_failure
from jobs.logs import grown_lines
from jobs.runfolder import JobFolder, Run
from mvdiff import ResultStore
from mvdiff.durable import alone
from mvdiff.events import EventLog
from slurm.submission import Submission
from tests.cluster.chaos_lab import Lab
from tests.cluster.lab import SMALL

SYNTH = ["samples=4", "size=32", "held_out=0"]
ENDLESS = ["samples=20000", "size=32", "held_out=0"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of its own, in which no local job is left running."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for run in (tmp_path / "runs").glob("*"):
        main(["cancel", str(run)])


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
    return found


def processes(group: str) -> list[str]:
    """Those of a local job, which share a process group."""
    told = subprocess.run(["ps", "-eo", "pgid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in told.splitlines())
    return [pid for pgid, pid, state in rows if pgid == group and not state.startswith("Z")]


@pytest.mark.parametrize("name", LOOKING_AFTER)
def test_help_fits_a_screen(name, answer):
    status, told = answer(name, "--help")
    assert status == 0
    assert told.startswith(f"mvdiff {name}: ") and "usage: " in told and "exit status" in told
    assert max(map(len, told.splitlines())) <= 120 and len(told.splitlines()) <= 40


@pytest.mark.parametrize(
    "words",
    [
        ["logs"], ["logs", "nope"], ["cancel", "nope"], ["retry", "nope"], ["show", "nope"], ["clean", "nope"],
        ["logs", "lab", "--job", "train"], ["logs", "lab", "--rank", "x"], ["logs", "lab", "--failed"],
        ["logs", "lab", "--rank", "7"], ["logs", "lab", "--follow", "--json"], ["show", "lab", "--diff", "nope"],
        ["status", "--watch", "--json"], ["cancel", "lab", "--all"],
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(words, here, capsys):
    assert main(["synth", "run=lab", *SYNTH, "--wait"]) == 0
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_cancel_ends_a_local_job_with_its_processes_and_nobody_elses(here, answer):
    pids = {}
    for name in ("mine", "other"):
        status, told = answer("synth", f"run={name}", *ENDLESS, "--json")
        assert status == 0
        pids[name] = told["job_ids"][0]
    folder = Run(here / "runs" / "mine").jobs()[0]
    until(lambda: list(folder.events.glob("*.jsonl")))
    assert answer("status", "--json")[1]["runs"][0]["state"] == "running"
    status, told = answer("cancel", "mine")
    assert status == 0 and f"cancelled 001-synth: job {pids['mine']} (running)" in told
    assert not processes(pids["mine"])
    assert until(lambda: len(processes(pids["other"])) == 2), "its controller and its process"
    states = {one["run"]: one["state"] for one in answer("status", "--json")[1]["runs"]}
    assert states == {"mine": "cancelled", "other": "running"}
    assert answer("cancel", "mine")[1] == "nothing of mine runs or waits\n"
    status, told = answer("retry", "other")
    assert status == 2 and "001-synth is running" in told


def test_a_local_job_of_another_machine_is_left_to_that_one(here, answer):
    assert answer("synth", "run=lab", *SYNTH, "--wait")[0] == 0
    folder = Run(here / "runs" / "lab").jobs()[0]
    for log in folder.events.glob("*.jsonl"):
        log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if "task finished" not in line))
    assert answer("status", "--json")[1]["runs"][0]["state"] == "failed"
    provenance = json.loads((folder.path / "provenance.json").read_text())
    (folder.path / "provenance.json").write_text(json.dumps({**provenance, "host": "login2"}))
    found = answer("status", "--json")[1]["runs"][0]
    assert found["state"] == "unknown" and found["why"] == "it was started on login2: ask there"
    assert answer("clean")[1] == "nothing to clean\n"
    assert answer("retry", "lab")[0] == 2


def test_a_job_that_ignores_the_request_is_killed(here, answer, monkeypatch):
    monkeypatch.setattr("slurm.cancellation.KILL_WAIT_S", 0.2)
    pid = answer("synth", "run=lab", *ENDLESS, "--json")[1]["job_ids"][0]
    until(lambda: len(processes(pid)) == 2)
    for process in processes(pid):
        os.kill(int(process), signal.SIGSTOP)
    assert answer("cancel", "lab")[0] == 0
    until(lambda: not processes(pid))


def test_retry_does_what_is_missing_with_the_words_given_then(here, answer, monkeypatch):
    assert answer("synth", "run=lab", "samples=100", "size=32", "held_out=0", "shard_samples=50", "--wait")[0] == 0
    assert answer("retry", "lab")[1] == "nothing of lab failed\n"
    run = Run(here / "runs" / "lab")
    first, second = sorted((run.shards / "train").glob("*.h5"))
    before = first.stat().st_mtime_ns
    second.unlink()
    log = next(run.jobs()[0].events.glob("*.jsonl"))
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if "task finished" not in line))
    assert answer("status", "--json")[1]["runs"][0]["state"] == "failed"
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    status, told = answer("retry", str(run.path), "cluster.time_min=77", "--wait", "--json")
    assert status == 0 and told["state"] == "done"
    assert second.exists() and first.stat().st_mtime_ns == before
    assert "time_min: 77" in (run.jobs()[1].path / "config.yaml").read_text()


def test_a_job_of_the_command_itself_is_done_once_it_is(here, answer):
    assert answer("synth", "run=lab", *SYNTH, "cluster=here")[0] == 0
    assert answer("status", "lab", "--json")[1]["states"][0]["state"] == "done"
    assert answer("retry", "lab")[1] == "nothing of lab failed\n"
    next(Run(here / "runs" / "lab").jobs()[0].events.glob("*.jsonl")).unlink()
    assert answer("status", "lab", "--json")[1]["states"][0]["state"] == "unsent"


def test_retry_of_a_generation_starts_no_more_workers_than_slices_are_left(tmp_path, monkeypatch, answer):
    lab = Lab.make(tmp_path, samples=8)
    monkeypatch.chdir(lab.folder)
    words = lab.words("gone", "cluster.workers=4", "generate.slice=1", "generate.batch=1", "generate.steps=300")
    status, told = answer(*words, "--json")
    assert status == 0 and len(told["job_ids"]) == 4
    results = until(lambda: next((set_.parent for set_ in lab.run("gone").results.glob("*/set.json")), None))
    until(lambda: len(list(results.glob("slice-*.h5"))) >= 5, 120)
    for controller in told["job_ids"]:
        os.killpg(int(controller), signal.SIGKILL)
    until(lambda: not any(map(processes, told["job_ids"])))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in results.glob("slice-*.h5")}
    left = 8 - len(before)
    assert 0 < left < 4
    found = answer("status", "gone", "--json")[1]
    assert found["states"][0]["state"] == "failed" and found["generate"][results.name]["done"] == len(before)

    status, told = answer("retry", "gone", "--wait", "--json")
    assert status == 0 and told["state"] == "done"
    first, second = lab.run("gone").jobs()
    assert len(second.submission().job_ids) == left
    workers = {name.name.partition("-")[0] for name in second.events.glob("*.jsonl")}
    assert workers == set(second.submission().job_ids)
    store = ResultStore(lab.run("gone").results)
    assert len(store) == 8 and all(len(store[name]) == 6 for name in store.ids())
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    assert answer("retry", "gone")[1] == "nothing of gone failed\n"
    assert first.submission().job_ids != second.submission().job_ids and len(lab.run("gone").jobs()) == 2


def test_retry_brings_back_what_a_chain_without_a_queue_never_came_to(here, answer, capsys):
    """Only the folder of the job that was cancelled knows what was to come behind it."""
    synth = ["synth", "run=lab", "samples=120", "size=64", "held_out=2"]
    train = ["train", "run=lab", "data=runs/lab/shards/train", "train=demo", "train.steps=2", "train.batch=2", *SMALL]
    chain = subprocess.Popen([sys.executable, "-m", "jobs.cli", *synth, "then", *train])
    run = Run(here / "runs" / "lab")
    until(lambda: run.jobs() and list(run.jobs()[0].events.glob("*.jsonl")))
    assert answer("cancel", "lab")[0] == 0
    assert chain.wait(30) == 1 and [folder.path.name for folder in run.jobs()] == ["001-synth"]

    mended = ["retry", "lab", "train.steps=4", "--json"]
    shown = answer(*mended, "--dry-run")[1]["jobs"]
    assert [one["job"] for one in shown] == ["synth", "train"] and len(run.jobs()) == 1
    assert main(["retry", "lab", "train.step=4"]) == 2
    assert "'train.step': did you mean train.steps" in capsys.readouterr().err
    status, told = answer(*mended)
    assert status == 0 and [(one["job"], one["state"]) for one in told["jobs"]] == [
        ("synth", "done"), ("train", "done"),
    ]  # fmt: skip
    assert [folder.path.name for folder in run.jobs()] == ["001-synth", "002-synth", "003-train"]
    assert run.jobs()[2].config().train.steps == 4
    assert answer("retry", "lab")[1] == "nothing of lab failed\n"


def test_two_commands_do_not_retry_the_same_run_at_once(here, answer, capsys):
    assert answer("synth", "run=lab", *ENDLESS)[0] == 0
    assert answer("cancel", "lab")[0] == 0
    run = Run(here / "runs" / "lab")
    until(lambda: not run.jobs()[0].is_alive())
    with alone(run.path / "jobs"):
        assert main(["retry", "lab"]) == 2
        assert "another mvdiff retry of lab is at work" in capsys.readouterr().err
        assert answer("retry", "lab", "--dry-run")[0] == 0
    assert len(run.jobs()) == 1
    assert answer("retry", "lab", "samples=4", "--wait")[0] == 0


def test_show_tells_settings_differences_and_the_command(here, answer):
    for name, seed in (("one", "1"), ("two", "2")):
        assert answer("synth", f"run={name}", *SYNTH, f"seed={seed}", "--wait")[0] == 0
    shown = answer("show", "one", "--json")[1]
    assert shown["config"]["seed"] == 1 and shown["provenance"]["versions"]["torch"]
    assert shown["command"] == f"cd {here} && mvdiff synth run=one {' '.join(SYNTH)} seed=1"
    differs = answer("show", "one", "--diff", "two", "--json")[1]["differences"]
    assert differs == {"run": ["one", "two"], "seed": [1, 2]}
    shutil.rmtree(here / "runs" / "one" / "shards")
    assert answer("synth", "run=one", *SYNTH, "seed=1", "--wait")[0] == 0
    assert [answer("show", "one", "--job", word, "--json")[1]["of"] for word in ("1", "002", "02", "2", "synth")] == [
        "001-synth", *["002-synth"] * 4,
    ]  # fmt: skip
    assert answer("logs", "one", "--job", "1", "--json")[1]["of"] == "001-synth"
    status, told = answer("logs", "one", "--job", "0")
    assert status == 2 and "choose --job from 001-synth, 002-synth" in told
    assert "seed: 1 | 2" in answer("show", "one", "--diff", "two")[1]


def test_clean_lists_first_and_spares_what_is_used(here, answer):
    assert answer("synth", "run=old", *SYNTH, "--wait")[0] == 0
    assert answer("synth", "run=live", *ENDLESS)[0] == 0
    live, old = (Run(here / "runs" / name).jobs()[0] for name in ("live", "old"))
    status, listed = answer("clean", "--json")
    assert status == 0 and listed["deleted"] is False
    kinds = {(Path(one["path"]).relative_to(old.path).parts[0], one["what"]) for one in listed["leftovers"]}
    assert kinds == {("code", "code of an ended job"), ("logs", "submitit's pickles")}, "nothing of the run that works"
    assert listed["bytes"] == sum(one["bytes"] for one in listed["leftovers"]) > 100_000
    assert old.code.is_dir()
    assert "delete it with --yes" in answer("clean", "old")[1]
    assert answer("clean", "old", "--yes")[0] == 0
    assert not list(old.path.glob(".*")) and not old.code.exists() and not list(old.logs.glob("*.pkl"))
    assert live.code.is_dir() and list(live.logs.glob("*.pkl"))
    assert (old.path / "config.yaml").exists() and list(old.logs.glob("*_log.out")) and list(old.events.iterdir())
    assert answer("clean", "old")[1] == "nothing to clean\n"
    assert answer("status", "old", "--json")[1]["states"][0]["state"] == "done"


def test_the_log_is_followed_over_restarts_until_the_job_ends(here, answer):
    pid = answer("synth", "run=lab", *ENDLESS, "--json")[1]["job_ids"][0]
    follow = subprocess.Popen([sys.executable, "-m", "jobs.cli", "logs", "lab", "--follow"], stdout=subprocess.PIPE)
    log = Run(here / "runs" / "lab").jobs()[0].logs / f"{pid}_0_log.out"
    until(lambda: log.exists() and "Loading pickle" in log.read_text())
    task = next(process for process in processes(pid) if process != pid)
    os.kill(int(task), signal.SIGKILL)
    until(lambda: "the job starts again" in log.read_text())
    assert answer("cancel", "lab")[0] == 0
    told, _ = follow.communicate(timeout=30)
    assert follow.returncode == 0
    assert b"rank 0 was killed by SIGKILL\nthe job starts again\n" in told
    assert told.count(b"Loading pickle") >= 1


def test_a_log_that_was_begun_anew_is_read_from_its_begin(tmp_path):
    log = tmp_path / "log"
    grown = grown_lines(log)
    assert next(grown) == ""
    log.write_text("one\ntw")
    assert next(grown) == "one\n"
    log.write_text("three\n")
    log.rename(tmp_path / "old")
    log.write_text("four\nfive\n")
    assert next(grown) == "four\nfive\n"
    log.write_text("six\n")
    assert next(grown) == "six\n"


def crew(tmp_path: Path, *said: tuple[int, str, dict]) -> tuple[JobFolder, Submission]:
    folder = JobFolder(Run(tmp_path / "lab"), tmp_path / "lab" / "jobs" / "001-train")
    folder.logs.mkdir(parents=True)
    for rank, kind, fields in said:
        EventLog(folder.events / f"7-{rank}.jsonl").write(kind, job_id="7", rank=rank, **fields)
        time.sleep(0.002)
    return folder, Submission("slurm", "lab-train", ["7"], str(folder.logs))


def test_the_first_error_is_not_that_of_a_rank_that_lost_another(tmp_path):
    lost = {"error": "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2"}
    folder, submission = crew(
        tmp_path,
        *[(rank, "task started", {"restart": 0}) for rank in range(4)],
        (3, "task failed", {"error": "ValueError: of the start before"}),
        *[(rank, "task started", {"restart": 1}) for rank in range(4)],
        (0, "task failed", lost),
        (2, "task failed", {"error": "OSError: shard-07.h5 is gone\nreally"}),
        (1, "task failed", lost),
    )
    failure = first_failure(folder, submission)
    assert failure and (failure.rank, failure.error) == (2, "OSError: shard-07.h5 is gone really")
    assert failure.log.endswith("logs/7_2_log.out")


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("srun: error: n2: task 3: Segmentation fault\n", "rank 3 ended: Segmentation fault"),
        ("rank 3 was killed by SIGKILL\n", "rank 3 was killed by SIGKILL"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.\nsrun: error: n2: task 3: Out Of Memory\n",
         "rank 3 ran out of memory"),
    ],
)  # fmt: skip
def test_a_rank_that_could_say_nothing_is_named_by_who_saw_it_die(tmp_path, log, error):
    lost = {"error": "RuntimeError: NCCL: Connection closed by peer"}
    folder, submission = crew(tmp_path, (0, "task started", {"restart": 0}), (0, "task failed", lost))
    submission.log("7").write_text(f"step 1\n{log}")
    failure = first_failure(folder, submission)
    assert failure and (failure.rank, failure.error) == (3, error)
