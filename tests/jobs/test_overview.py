"""Many runs at once, from files alone and one question to a queue."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.cli import main
from jobs.overview import look_at, survey
from jobs.runfolder import Run, source_root
from jobs.state import STALLED_S, in_words
from mvdiff.events import EventLog

RUNS = 1000
ALLOWED_S = 2.0
GENEROUS = 1.5


def submit(root: Path, name: str, job: str, ids: list[str], number: int = 1, after: Path | None = None) -> Path:
    """The folder of a job that was submitted once, as a submission leaves it."""
    folder = root / name / "jobs" / f"{number:03d}-{job}"
    for part in ("events", "logs"):
        (folder / part).mkdir(parents=True)
    told = {"kind": "slurm", "name": f"{name}-{job}", "job_ids": ids, "logs": str(folder / "logs")}
    (folder / "submission.json").write_text(json.dumps(told))
    if after is not None:
        (folder / "after.json").write_text(json.dumps({"after": [str(after)]}))
    (folder / "config.yaml").write_text("cluster:\n  time_min: 600\n  signal_lead_s: null\n")
    return folder


def trained(folder: Path, id_: str, lines: int) -> None:
    log = EventLog(folder / "events" / f"{id_}-0.jsonl")
    log.write("task started", rank=0, job_id=id_, restart=0)
    step = {"kind": "step", "of": 10_000, "losses": [0.123456789] * 10, "samples_per_second": 24.0, "data_wait": 0.01}
    rows = [{"time": 1e9 + k, "first": 10 * k, "last": 10 * k + 9, **step} for k in range(lines)]
    with (folder / "events" / f"{id_}-0.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (folder / "logs" / f"began-{id_}-0").touch()


class Queue:
    """A squeue that answers what it is given and keeps count of its calls; there is no sacct."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.tools, self._answer, self._asked = folder, folder / "answer", folder / "asked"
        self._asked.touch()
        self.answers()
        (folder / "squeue").write_text(f'#!/bin/sh\necho "$@" >> {self._asked}\nexec cat {self._answer}\n')
        (folder / "squeue").chmod(0o755)

    def answers(self, *lines: str) -> None:
        self._answer.write_text("".join(lines))

    def falls_silent(self) -> None:
        (self.tools / "squeue").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")

    @property
    def calls(self) -> int:
        return len(self._asked.read_text().splitlines())


@pytest.fixture
def queue(tmp_path, monkeypatch):
    made = Queue(tmp_path / "bin")
    for name in ("sh", "cat"):
        (made.tools / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(made.tools))
    return made


def squeue_line(id_: str, word: str, reason: str = "None", ago: float = 60.0) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - ago))
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 600))
    return f"{id_}|{id_.partition('_')[0]}|{word}|{when}|{when}|{ends}|{reason}\n"


def state_of(root: Path, name: str):
    runs = [Run(root / name)]
    return survey(runs, look_at(runs))[0]


@pytest.mark.timeout(120)
def test_a_thousand_runs_within_two_seconds_and_one_question(tmp_path, queue, monkeypatch, capsys):
    root = tmp_path / "runs"
    lines = []
    for k in range(RUNS):
        folder = submit(root, f"run-{k:04d}", "train", [str(k)])
        trained(folder, str(k), 200)
        if k % 10 == 0:
            lines.append(squeue_line(str(k), "RUNNING"))
        elif k % 10 == 1:
            lines.append(squeue_line(str(k), "PENDING", "Priority"))
        else:
            EventLog(folder / "events" / f"{k}-0.jsonl").write("task finished", rank=0, job_id=str(k))
    queue.answers(*lines)
    monkeypatch.chdir(tmp_path)
    began = time.process_time()  # of this process: others on the machine do not count
    assert main(["status"]) == 0
    took = time.process_time() - began
    assert queue.calls == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) == RUNS
    words = [line.split()[2] for line in told]
    assert words[:200].count("running") == words[:200].count("queued") == RUNS // 10, (
        "those that need a look come first"
    )
    assert words[200:] == ["done"] * 800
    assert took < GENEROUS * ALLOWED_S


def test_what_the_queue_has_forgotten_is_told_by_the_files(tmp_path, queue):
    root = tmp_path / "runs"
    for name, last in (("well", "task finished"), ("ill", "task failed"), ("mute", None), ("unwanted", None)):
        folder = submit(root, name, "train", ["7"])
        trained(folder, "7", 3)
        if last:
            EventLog(folder / "events" / "7-0.jsonl").write(last, rank=0, job_id="7", error="ValueError: no")
    assert state_of(root, "well").state == "done"
    assert state_of(root, "ill").state == "failed"
    assert state_of(root, "ill").job.failure.error == "ValueError: no"
    assert state_of(root, "mute").state == "gone"
    (root / "unwanted" / "jobs" / "001-train" / "logs" / "cancelled-7-0").touch()
    assert state_of(root, "unwanted").state == "cancelled"


def test_of_a_chain_the_job_is_told_that_runs_or_failed(tmp_path, queue, monkeypatch, capsys):
    root = tmp_path / "runs"
    train = submit(root, "lab", "train", ["7"])
    generate = submit(root, "lab", "generate", ["8"], 2, train)
    submit(root, "lab", "evaluate", ["9"], 3, generate)
    trained(train, "7", 3)
    monkeypatch.chdir(tmp_path)

    def told() -> str:
        assert main(["status"]) == 0
        return capsys.readouterr().out

    waiting = [squeue_line(id_, "PENDING", "Dependency") for id_ in ("8", "9")]
    queue.answers(squeue_line("7", "RUNNING"), *waiting)
    assert "001-train  running" in told()
    EventLog(train / "events" / "7-0.jsonl").write("task failed", rank=0, job_id="7", error="ValueError: no")
    queue.answers()
    assert "001-train  failed" in told()


def test_a_job_that_never_began_was_cancelled_when_that_was_said(tmp_path, queue):
    root = tmp_path / "runs"
    folder = submit(root, "lab", "train", ["7"])
    word = folder / "logs" / "cancelled-7-0"
    word.touch()
    os.utime(word, (1e9, 1e9))
    assert state_of(root, "lab").job.since == 1e9
    word.unlink()
    os.utime(folder / "submission.json", (1e9 + 7, 1e9 + 7))
    (folder / "after.json").write_text(json.dumps({"after": [str(root / "lab" / "jobs" / "000-synth")]}))
    (folder / "code").mkdir()
    (folder / "code").rmdir()
    assert state_of(root, "lab").job.since == 1e9 + 7, "whatever is cleaned away in its folder"


def test_a_queue_that_does_not_answer_is_told_and_nothing_guessed(tmp_path, queue):
    root = tmp_path / "runs"
    trained(submit(root, "lab", "train", ["7"]), "7", 3)
    queue.falls_silent()
    found = state_of(root, "lab")
    assert found.state == "unknown" and found.job.why.startswith("the queue does not answer; ")
    assert "Unable to contact" in look_at([Run(root / "lab")]).silent
    EventLog(root / "lab" / "jobs" / "001-train" / "events" / "7-0.jsonl").write("task failed", rank=0, job_id="7")
    assert state_of(root, "lab").state == "unknown", "it may be on its way back"
    EventLog(root / "lab" / "jobs" / "001-train" / "events" / "7-0.jsonl").write("task finished", rank=0, job_id="7")
    assert state_of(root, "lab").state == "done"


def test_what_has_ended_by_its_own_folder_needs_no_queue_to_be_cancelled(tmp_path, queue, monkeypatch, answer):
    """The queue is not even asked; whatever else may come back has to be asked for, and is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slurm.patience.PATIENCE_S", 0.0)
    queue.falls_silent()
    folder = submit(tmp_path / "runs", "lab", "train", ["7", "8"])

    def says(kind: str, id_: str, rank: int = 0) -> None:
        EventLog(folder / "events" / f"{id_}-{rank}.jsonl").write(f"task {kind}", rank=rank, job_id=id_, error="no")

    def waits_for_the_queue() -> bool:
        status, told = answer("cancel", "lab")
        return status == 2 and "what runs is not known" in told

    assert waits_for_the_queue(), "nothing is known of it"
    for id_ in ("7", "8"):
        says("finished", id_)
    assert answer("cancel", "lab") == (0, "nothing of lab runs or waits: 001-train is done\n")
    says("started", "8", rank=1)
    assert waits_for_the_queue(), "a rank has not finished: the job may come back"
    says("failed", "8", rank=1)
    assert waits_for_the_queue(), "it may start again"
    (folder / "logs" / "began-8-0").touch()
    (folder / "logs" / "gave-up-8-0").touch()
    assert answer("cancel", "lab") == (0, "nothing of lab runs or waits: 001-train has ended\n")
    assert answer("cancel", "lab", "--json")[1]["ended"] == {"001-train": "failed"}
    (folder / "logs" / "began-8-1").touch()
    assert waits_for_the_queue(), "somebody has started it again"
    (folder / "logs" / "cancelled-7-0").touch()
    (folder / "logs" / "cancelled-8-0").touch()
    assert waits_for_the_queue(), "it was asked for, and nobody has said that it was done"


def test_a_job_without_a_sign_of_work_is_stalled(tmp_path, queue):
    root = tmp_path / "runs"
    folder = submit(root, "lab", "train", ["7"])
    trained(folder, "7", 3)
    queue.answers(squeue_line("7", "RUNNING", ago=2 * STALLED_S))
    assert state_of(root, "lab").state == "running"
    old = time.time() - STALLED_S - 60
    os.utime(folder / "events" / "7-0.jsonl", (old, old))
    assert state_of(root, "lab").state == "stalled"


def test_time_left_is_held_against_the_time_limit(tmp_path, queue):
    root = tmp_path / "runs"
    trained(submit(root, "lab", "train", ["7"]), "7", 100)
    queue.answers(squeue_line("7", "RUNNING"))
    told = state_of(root, "lab").line(time.time())
    # 900 log lines of 10 steps are left, one a second; the limit comes 600 s from now
    assert "step 1000/10000, loss 0.1235, 24.0 samples/s, 15m00s left" in told
    assert "(the time limit comes in" in told and "it goes on by itself" in told


def test_a_stop_near_the_time_limit_is_no_preemption(tmp_path, queue):
    root = tmp_path / "runs"
    folder = submit(root, "lab", "train", ["7"])
    trained(folder, "7", 3)
    now = time.time()
    for restart, age in ((0, 600 * 60 - 200), (1, 300)):
        for word, when in (("began", now - age), ("stopped", now)):
            (folder / "logs" / f"{word}-7-{restart}").touch()
            os.utime(folder / "logs" / f"{word}-7-{restart}", (when, when))
    (folder / "logs" / "began-7-2").touch()
    queue.answers(squeue_line("7", "RUNNING"))
    starts = state_of(root, "lab").job.starts
    assert (starts.preempted, starts.out_of_time) == (1, 1)
    assert starts.told == "resumed 2 times (preempted once, out of time once)"


def test_members_of_an_array_are_counted(tmp_path, queue):
    root = tmp_path / "runs"
    submit(root, "lab", "synth", [f"9_{k}" for k in range(4)])
    queue.answers(squeue_line("9_0", "RUNNING"), *(squeue_line(f"9_{k}", "PENDING", "Resources") for k in (1, 2, 3)))
    found = state_of(root, "lab")
    assert found.state == "running" and found.job.members == "3 queued, 1 running"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "others are ahead of it (Priority)"),
        ("JobHeldUser", "held by its owner: scontrol release 7 (JobHeldUser)"),
        ("QOSMaxJobsPerUserLimit", "a limit of the account's or QOS's is reached (QOSMaxJobsPerUserLimit)"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-4]", "nodes that it needs are down, drained or reserved: see sinfo -R "
         "(ReqNodeNotAvail)"),
        ("SomethingNew", "SomethingNew"),
    ],
)  # fmt: skip
def test_the_reason_for_waiting_is_put_in_words(reason, words):
    assert in_words(reason, "7") == words


def test_watching_ends_by_itself_when_nothing_runs(tmp_path, queue, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = submit(tmp_path / "runs", "lab", "train", ["7"])
    trained(folder, "7", 3)
    EventLog(folder / "events" / "7-0.jsonl").write("task finished", rank=0, job_id="7")
    queue.answers(squeue_line("7", "RUNNING"))
    asked = []

    def look_again(seconds: float) -> None:
        asked.append(seconds)
        queue.answers(squeue_line("7", "COMPLETED"))

    monkeypatch.setattr("jobs.status.time", SimpleNamespace(sleep=look_again, time=time.time))
    assert main(["status", "--watch"]) == 0
    told = capsys.readouterr().out
    assert "running" in told and "done" in told and len(asked) == 1


def watched(width: int, *words: str, height: int = 40) -> list[str]:
    """What a terminal of so many columns and lines is shown last by ``mvdiff status --watch`` where nothing runs."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    command = [sys.executable, "-P", "-m", "jobs.cli", "status", *words, "--watch"]
    around = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, env={**around, "TERM": "xterm", "PYTHONPATH": str(source_root())}
    )
    os.close(end)
    shown = b""
    with suppress(OSError):  # the terminal's other end is gone
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert process.wait(30) == 0, shown
    return [line.rstrip() for line in re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown.decode()).splitlines()]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_in_a_narrow_terminal_state_and_why_are_read_to_their_end(tmp_path, queue, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    error = "InputError: shards/train/shard-00017.h5 row 17 (mouse-0117): its checksum does not match: pack it again"
    folder = submit(tmp_path / "runs", "mice-finetune", "train", ["8"])
    EventLog(folder / "events" / "8-0.jsonl").write("task failed", rank=0, job_id="8", error=error)
    submit(tmp_path / "runs", "a-name-that-somebody-thought-about-for-a-long-time", "generate", ["9"])
    gone = "it ended without a word and the queue has forgotten it: see mvdiff logs, then mvdiff retry"
    for words in ((), ("mice-finetune",)):
        lines = watched(width, *words)
        assert max(map(len, lines)) <= width and not any("\u2026" in line for line in lines)
        told = " ".join(" ".join(lines).split())
        assert f"rank 0 of job 8 failed first: {error}" in told
        assert re.search(r"001-train +failed", told)
        assert words or (gone in told and re.search(r"a-long-time +001-generate +gone", told))


def test_in_a_low_terminal_the_newest_job_of_a_run_is_seen_and_what_is_left_out_counted(tmp_path, queue, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(1, 31):
        submit(tmp_path / "runs", "mice", "generate", [str(number)], number)
    lines = watched(200, "mice", height=12)
    assert any(re.match(r"030-generate +gone", line) for line in lines) and any("lines above" in line for line in lines)


def test_ctrl_c_ends_watching_without_a_traceback(tmp_path, queue, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    submit(tmp_path / "runs", "lab", "train", ["7"])
    queue.answers(squeue_line("7", "RUNNING"))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.status.time", SimpleNamespace(sleep=interrupt, time=time.time))
    assert main(["status", "lab", "--watch"]) == 0
    assert "Traceback" not in capsys.readouterr().err
