"""Starting a testbed's daemons, and waiting until each does its work."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from slurm.errors import RequestError
from slurm.testbed.client import Client
from slurm.testbed.configuration import munge_socket, slurm_conf_file
from slurm.testbed.plan import Plan
from slurm.testbed.processes import MARK, ROLE, Process, processes

POLL_SECONDS = 0.05


class Daemons:
    """The daemons of one testbed, by role: ``munged``, ``slurmctld``, ``slurmd-n1``, ``slurmdbd``, ``mariadbd``."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.plan = client.plan
        self.packages = client.packages

    @property
    def roles(self) -> list[str]:
        """Every daemon the plan asks for, in the order they start."""
        accounting = ["mariadbd", "slurmdbd"] if self.plan.accounting else []
        return ["munged", *accounting, "slurmctld", *(f"slurmd-{name}" for name in self.plan.node_names)]

    def running(self) -> dict[str, Process]:
        """The daemons that run now, by role."""
        marked = [
            process
            for process in processes()
            if process.environment.get(MARK) == self.plan.folder and ROLE in process.environment
        ]
        # What a daemon forks, such as slurmctld's slurmscriptd, bears the same marks.
        own = {process.pid for process in marked}
        return {process.environment[ROLE]: process for process in marked if process.parent not in own}

    def start_munged(self) -> None:
        """Start munged, and wait until it answers on its socket."""
        files = {
            "socket": munge_socket(self.plan).name,
            "key-file": "munge.key",
            "pid-file": "munge.pid",
            "seed-file": "munge.seed",
        }
        options = [f"--{name}={self.plan.path / file}" for name, file in files.items()]
        # --force: as root, and with a socket only root reaches. Others could submit nothing anyway.
        self._start("munged", ["munged", "--foreground", "--force", "--num-threads=4", *options])
        self.wait("munged", lambda: answers(munge_socket(self.plan)), seconds=20)

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(slurm_conf_file(self.plan))])
        self.wait("slurmctld", lambda: self.client.run("scontrol", "ping").returncode == 0, seconds=30)

    def start_node(self, name: str) -> None:
        """Start the slurmd of node ``name``; the node is idle a little later."""
        # A step daemon overwrites its environment and command line: its own copy of the program is what names its node.
        stepd = step_daemon(self.plan, name)
        if not stepd.exists():
            stepd.parent.mkdir(mode=0o700, parents=True)
            shutil.copy(self.packages.binary("slurmstepd"), stepd)
        conf = str(slurm_conf_file(self.plan))
        self._start(f"slurmd-{name}", ["slurmd", "-D", "-N", name, "-d", str(stepd), "-f", conf])

    def start_database(self, command: list[str], path: Path) -> None:
        """Start mariadbd by ``command``, and wait until it answers on the socket ``path``."""
        self._start("mariadbd", command)
        self.wait("mariadbd", lambda: answers(path), seconds=60)

    def start_slurmdbd(self, database: Path) -> None:
        """Start slurmdbd on the database that listens on the socket ``database``, and wait until it answers."""
        # slurmdbd reads no slurm.conf, and knows no setting for the database's socket.
        variables = {"SLURM_CONF": str(slurm_conf_file(self.plan)), "MYSQL_UNIX_PORT": str(database)}
        self._start("slurmdbd", ["slurmdbd", "-D"], variables)
        self.wait("slurmdbd", lambda: self.client.run("sacctmgr", "-n", "list", "cluster").returncode == 0, seconds=60)

    def wait(self, role: str, ready: Callable[[], bool], seconds: float) -> None:
        """Poll until ``ready()``.

        Raises:
            RequestError: when the daemon ``role`` dies or ``seconds`` pass: with the line of its log that tells why.
        """
        deadline = time.monotonic() + seconds
        misses = 0
        while not ready():
            # A process in the middle of its exec shows no environment: one look in vain proves nothing.
            misses = 0 if role in self.running() else misses + 1
            if misses > 3:
                raise self._failure(role, "died at its start")
            if time.monotonic() > deadline:
                raise self._failure(role, f"was not ready after {seconds:g} s")
            time.sleep(POLL_SECONDS)

    def logs(self, role: str) -> list[Path]:
        """Where a daemon writes: its own log file and what it printed."""
        return [path for ending in ("log", "out") if (path := self.plan.path / f"log/{role}.{ending}").exists()]

    def _start(self, role: str, command: list[str], variables: dict[str, str] | None = None) -> None:
        environment = {
            **self.client.environment(),
            **(variables or {}),
            MARK: self.plan.folder,
            ROLE: role,
        }
        output = self.plan.path / f"log/{role}.out"
        with output.open("ab") as file:
            # setsid --fork: the daemon outlives this process and this terminal, and is nobody's zombie.
            subprocess.run(
                ["setsid", "--fork", str(self._program(command[0])), *command[1:]],
                cwd=output.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                umask=0o022,
                check=True,
            )

    def _program(self, name: str) -> Path:
        """The program under its plain name: called slurmctld-wlm it takes itself for a client, and passes GPUs over."""
        program = self.packages.binary(name)
        if program.name == name:
            return program
        link = self.plan.path / "bin" / name
        if not link.is_symlink():
            link.symlink_to(program)
        return link

    def _failure(self, role: str, what: str) -> RequestError:
        told = telling_line("\n".join(path.read_text(errors="replace") for path in self.logs(role)))
        logs = self.logs(role) or [self.plan.path / "log"]
        return RequestError(f"the testbed's {role} {what} ({told})", f"read {logs[0]}")


def step_daemon(plan: Plan, node: str) -> Path:
    """The program that runs the steps of ``node``: a copy of slurmstepd."""
    return plan.path / "bin" / node / "slurmstepd"


def answers(path: Path) -> bool:
    """Whether somebody listens on the Unix socket ``path``."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def telling_line(log: str) -> str:
    """The line of a daemon's log that tells why it failed: the last error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(fatal|error|denied|cannot)\b", line, re.IGNORECASE)]
    fatal = [line for line in errors if "fatal" in line.lower()]
    return (fatal or errors or lines or ["nothing in its log"])[-1]
