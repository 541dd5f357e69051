"""What a storm can see and hit: tasks, leases, slices, the queue."""

import json
import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mvdiff.generate.lease import TWIN, parse
from slurm.testbed import Testbed
from slurm.testbed.nodes import of_testbed
from slurm.testbed.processes import Process
from tests.cluster.chaos_lab import Lab

NAME = "storm"


@dataclass(frozen=True)
class Task:
    """A worker's process."""

    process: Process
    job: str
    """As the queue prints it: ARRAY_INDEX."""
    node: str
    slices: tuple[str, ...]
    """The leases it holds, by name: a slice in hand and one read ahead; none while it starts or waits."""

    @property
    def stage(self) -> str:
        return f"with {' and '.join(self.slices)}" if self.slices else "starting or waiting"


class Scene:
    """One generation on a testbed, as it is at the moment of each call."""

    def __init__(self, lab: Lab, bed: Testbed) -> None:
        self.lab, self.bed = lab, bed
        self.client = bed.client
        self.run = lab.run(NAME)
        self.frozen: set[int] = set()
        """Processes that are stopped; nothing else is done to them, or they could not come back as zombies."""

    @property
    def results(self) -> Path:
        """The result set; it is there once the first command has returned."""
        return self.lab.results(NAME)

    def published(self) -> set[str]:
        """Names of the slices that are published."""
        return {path.stem.removeprefix("slice-") for path in self.results.glob("slice-*.h5")}

    def open_slices(self) -> list[str]:
        """Names of the planned slices that are not."""
        planned: list[str] = []
        for path in sorted(self.results.glob("plan-*.json")):
            plan = json.loads(path.read_text())
            planned += [f"{plan['number']:04d}-{k:06d}" for k in range(-(-plan["samples"] // plan["slice"]))]
        return sorted(set(planned) - self.published())

    def attempts(self) -> dict[str, int]:
        """{lease: number of the last attempt under it}: one a slice, a second where two work on it."""
        found: dict[str, int] = {}
        for path in self.leases().iterdir() if self.leases().is_dir() else ():
            name, _, attempt = path.name.rpartition(".")
            if name and not name.startswith(".") and attempt.isdigit():
                found[name] = max(found.get(name, 0), int(attempt))
        return found

    def leases(self) -> Path:
        return self.results / "leases"

    def targets(self) -> list[Task]:
        """The tasks that may be hit."""
        return [task for task in self.tasks() if task.process.pid not in self.frozen]

    def nodes(self) -> list[str]:
        """The nodes that may be hit: workers run there, and none of them is frozen."""
        running = self.tasks()
        spared = {task.node for task in running if task.process.pid in self.frozen}
        return sorted({task.node for task in running} - spared)

    def tasks(self) -> list[Task]:
        """Every worker's process, in the order of jobs."""
        held = self._held()
        found = []
        for process in of_testbed(self.client.plan):
            variables = process.environment
            python = Path(process.executable).name.startswith("python")
            if python and "SLURM_PROCID" in variables and "slurm.guard" in process.command:
                job = f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
                found.append(Task(process, job, variables["SLURMD_NODENAME"], tuple(held[process.pid])))
        return sorted(found, key=lambda task: task.job)

    def queue(self) -> dict[str, str]:
        """{job: state} of the workers that run or wait; one that the queue holds back for good is ``HELD``."""
        answer = self.client.run("squeue", "--noheader", "--array", f"--name={NAME}-generate", "--format=%i|%T|%r")
        rows = [line.split("|") for line in answer.stdout.split("\n") if "|" in line]
        return {job: "HELD" if "held" in reason.lower() else state for job, state, reason in rows}

    def ask(self, *command: str) -> str:
        """Run one of SLURM's commands; its answer, or what it has against it."""
        answer = self.client.run(*command)
        return (answer.stdout if answer.returncode == 0 else f"refused: {answer.stderr}").strip()

    def take_over(self, name: str, content: object) -> int | None:
        """Take the next lease of the slice ``name`` with ``content`` in it, by a hard link as workers do.

        Returns its number; None when somebody was first, or the disk is full.
        """
        attempt = self.attempts().get(name, 0) + 1
        temporary = self.leases() / f".{name}.{attempt}.{os.getpid()}"
        try:
            temporary.write_text(json.dumps(content) + "\n")
            os.link(temporary, self.leases() / f"{name}.{attempt}")
        except OSError:
            return None
        finally:
            temporary.unlink(missing_ok=True)
        return attempt

    def _held(self) -> dict[int, list[str]]:
        newest, published = self.attempts(), self.published()
        held: dict[int, list[str]] = defaultdict(list)
        for name, attempt in sorted(newest.items()):
            with suppress(OSError):
                content = parse((self.leases() / f"{name}.{attempt}").read_bytes())
                if content.get("state") == "held" and slice_of(name) not in published:
                    held[content["owner"]["pid"]].append(name)
        return held


def slice_of(lease: str) -> str:
    """The slice that the lease called ``lease`` is on."""
    return lease.removesuffix(TWIN)
