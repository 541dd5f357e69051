"""A laboratory on the testbed: a small model, its data, and its training job as a test sees and harms it."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.cli import main
from jobs.runfolder import JobFolder, Run
from mvdiff.events import read_events

SMALL = [
    "model.size=64", "model.new.patch=8", "model.new.widths=[16,32]", "model.new.latent_channels=8",
    "model.new.head_width=16", "model.new.context_width=16", "model.new.condition_grid=4",
]  # fmt: skip
LOW = ["cluster=slurm", "cluster.partition=low", "cluster.cpus_per_task=1"]

Eventually = Callable[[Callable[[], object], float], Any]


def in_background(words: list[str]) -> tuple[threading.Thread, list[int]]:
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(main(words)))
    thread.start()
    return thread, status


def last_job(run: Run, job: str) -> JobFolder | None:
    folders = [folder for folder in run.jobs() if folder.job == job]
    return folders[-1] if folders and folders[-1].submission() else None


def state(job_id: str) -> str:
    shown = subprocess.run(["scontrol", "show", "job", job_id], capture_output=True, text=True, check=True).stdout
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)["JobState"]


class Training:
    """A training job in the queue."""

    def __init__(self, run: Run, eventually: Eventually) -> None:
        folder = last_job(run, "train")
        assert folder is not None
        submission = folder.submission()
        assert submission is not None
        self.run, self.folder, self.job_id = run, folder, submission.job_ids[0]
        self._eventually = eventually

    def events(self) -> list[dict[str, Any]]:
        return sorted(read_events(self.folder.events), key=lambda event: event["time"])

    def starts(self) -> int:
        """How often the job has started."""
        return sum(event["kind"] == "task started" and event["rank"] == 0 for event in self.events())

    def since_start(self) -> list[dict[str, Any]]:
        """Events of the start that is under way, from its rank 0's first word on."""
        events = self.events()
        begins = [k for k, e in enumerate(events) if e["kind"] == "task started" and e["rank"] == 0]
        return events[begins[-1] :] if begins else []

    def pids(self) -> dict[int, int]:
        """{rank: pid} of the newest start."""
        restart = max(event["restart"] for event in self.events() if event["kind"] == "task started")
        return {
            event["rank"]: event["pid"]
            for event in self.events()
            if event["kind"] == "task started" and event["restart"] == restart
        }

    def wait(self, what: Callable[[], object], seconds: float = 120) -> Any:
        return self._eventually(what, seconds)

    def wait_for_steps(self, count: int) -> None:
        """Until the start that is under way has taken ``count`` steps."""
        self.wait(lambda: sum(len(e["losses"]) for e in self.since_start() if e["kind"] == "step") >= count)

    def ended(self) -> bool:
        return state(self.job_id) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def cancel(self) -> None:
        """As its owner would, and wait until it is gone."""
        subprocess.run(["scancel", self.job_id], check=True)
        self.wait(lambda: state(self.job_id) == "CANCELLED" and not self.folder.is_alive(), 60)

    def kill(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one rank's process."""
        os.kill(self.pids()[rank], number)

    def signal_step(self, name: str) -> None:
        """Send a signal to every rank, as SLURM does."""
        subprocess.run(["scancel", f"--signal={name}", self.job_id], check=True)


def take_the_cluster() -> None:
    """Submit a job of higher priority that wants every node for a moment."""
    nodes = subprocess.run(["sinfo", "--noheader", "--format=%D", "--partition=high"], capture_output=True, text=True)
    subprocess.run(
        ["sbatch", "--partition=high", f"--nodes={nodes.stdout.strip()}", "--exclusive", "--output=/dev/null",
         "--wrap=true"],
        check=True, capture_output=True,
    )  # fmt: skip


def newest(folder: Path) -> Path:
    """The newest checkpoint in a folder of them."""
    return sorted(folder.glob("step-*"))[-1]
