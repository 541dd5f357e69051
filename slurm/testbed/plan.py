"""What a testbed is made of: its nodes, ports and limits, kept beside it as JSON."""

import json
import random
import re
import socket
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm.errors import RequestError

PLAN_FILE = "testbed.json"
MAX_FOLDER_LENGTH = 60  # Unix socket paths end at 107 bytes, and slurmstepd puts its own below the node's spool


@dataclass(frozen=True)
class Plan:
    """One testbed's shape. It does not change while the testbed is up."""

    folder: str
    """Everything the testbed writes lies under it."""
    nodes: int
    """Virtual nodes, named n1, n2, ..."""
    gpus: int
    """GPUs a node; they exist for the scheduler only."""
    cpus: int
    """CPUs a node as the scheduler counts them, whatever the machine has."""
    accounting: bool
    """Whether slurmdbd runs, so that sacct answers."""
    packages: str | None
    """The folder with unpacked packages, or None for the installed ones."""
    grace_seconds: int
    """Between the warning signal of a preemption and the kill."""
    max_array_size: int
    """SLURM's MaxArraySize: array indices stay below it."""
    max_jobs: int
    """SLURM's MaxJobCount: jobs that the queue holds, every member of an array and those that ended lately included."""
    short_minutes: int
    """Longest job in the partition ``short``."""
    first_job_id: int
    """Differs from one ``up`` to the next, so that ids in old run folders name no live job."""
    ports: tuple[int, ...]
    """slurmctld's, slurmdbd's, then one a node."""

    @property
    def node_names(self) -> list[str]:
        """``n1`` to ``nN``."""
        return [f"n{k + 1}" for k in range(self.nodes)]

    @property
    def cluster_name(self) -> str:
        """A name of its own for every folder."""
        return f"testbed-{zlib.crc32(self.folder.encode()):08x}"

    @property
    def path(self) -> Path:
        """The folder as a path."""
        return Path(self.folder)

    @property
    def controller_port(self) -> int:
        """Where slurmctld listens."""
        return self.ports[0]

    @property
    def database_port(self) -> int:
        """Where slurmdbd listens."""
        return self.ports[1]

    def node_port(self, name: str) -> int:
        """Where the slurmd of node ``name`` listens."""
        return self.ports[2 + self.node_names.index(name)]

    def check(self) -> None:
        """Refuse shapes and folders that SLURM could not work with.

        Raises:
            RequestError: says which and why.
        """
        if not re.fullmatch(r"/[A-Za-z0-9._/+-]+", self.folder):
            raise RequestError(
                f"SLURM's configuration cannot hold the folder name {self.folder!r}",
                "choose one of letters, digits, '.', '_', '-', '+'",
            )
        if len(self.folder) > MAX_FOLDER_LENGTH:
            raise RequestError(
                f"the folder name {self.folder} is too long for the sockets in it",
                f"choose one of at most {MAX_FOLDER_LENGTH} characters, under /tmp for instance",
            )
        bounds = {
            "nodes": (1, 64),
            "gpus": (0, 64),
            "cpus": (1, 1024),
            "grace_seconds": (0, 3600),
            "max_array_size": (2, 4_000_001),
            "max_jobs": (1, 1_000_000),
            "short_minutes": (1, 1440),
        }
        for field, (low, high) in bounds.items():
            if not low <= getattr(self, field) <= high:
                raise RequestError(f"{field} is {getattr(self, field)}", f"give one from {low} to {high}")

    def save(self) -> None:
        """Write the plan into its folder."""
        (self.path / PLAN_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Plan | None":
        """The plan of the testbed in ``folder``; None when there is none, or only a torn one."""
        try:
            content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
            return cls(**{**content, "ports": tuple(content["ports"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


def free_ports(count: int) -> tuple[int, ...]:
    """``count`` TCP ports nobody listens on, below the range the kernel hands to outgoing connections.

    A port of that range could be taken while a crashed node is away, and the node would not come back.
    """
    below = _first_ephemeral_port()
    found: list[socket.socket] = []
    try:
        for port in random.sample(range(10_000, below), below - 10_000):
            if len(found) == count:
                break
            probe = socket.socket()
            try:
                probe.bind(("", port))
            except OSError:
                probe.close()
            else:
                found.append(probe)
        return tuple(probe.getsockname()[1] for probe in found)
    finally:
        for probe in found:
            probe.close()


def _first_ephemeral_port() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    except OSError:
        return 32_768
    first = int(text.split()[0])
    # A machine that hands out nearly everything leaves no range of ours: take what is usual.
    return first if first >= 11_000 else 32_768
