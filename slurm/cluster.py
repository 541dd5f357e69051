"""What a job asks of a cluster: one settings object, the same for a laptop and for SLURM."""

import math
import re
from dataclasses import dataclass, fields

from slurm.errors import RequestError

_LEAST = {
    "nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "workers": 1, "cpus_per_task": 1, "memory_gb": 0.1,
    "time_min": 1, "signal_lead_s": 0,
}  # fmt: skip

LEAD_S = 180
"""Seconds between warning and time limit of a job that nothing is known of."""
_LONGEST_LEAD_S = 65535  # sbatch takes no more

KINDS = ("here", "local", "slurm")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Cluster:
    """A site and the share of it that a job asks for (``configs/cluster/*.yaml`` hold the values)."""

    kind: str
    """here: in the calling process; local: submitit's local executor; slurm: sbatch."""
    nodes: int
    """Nodes of one job (training spans them; a generation worker needs one)."""
    gpus_per_node: int
    """GPUs asked for on every node; 0 runs on CPUs."""
    tasks_per_node: int | None
    """Processes on every node; null means one a GPU, or one where there are none."""
    workers: int
    """Independent workers of a job that has them (synth, generate): an array of this length."""
    cpus_per_task: int
    """CPU cores of every process."""
    memory_gb: float | None
    """Memory of a node; null leaves it to the site."""
    time_min: int
    """Time limit in minutes."""
    signal_lead_s: int | None
    """How long before the time limit the warning signal is sent, in seconds (SLURM may send it 60 s earlier); null: as
    ``lead_s`` finds it."""
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    """Nodes to keep away from, as SLURM writes lists: n[1-3],n7."""
    setup: list[str]
    """Shell lines run before the job on the batch node (module load ...)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(f"cluster.kind={self.kind!r} is unknown", f"choose one of {', '.join(KINDS)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < 10**9:
                raise RequestError(f"cluster.{name}={value} cannot be", f"give at least {least}")
        if self.signal_lead_s is not None and self.signal_lead_s >= 60 * self.time_min:
            raise RequestError(
                f"cluster.signal_lead_s={self.signal_lead_s} is no less than the time limit of {self.time_min} min",
                "give fewer seconds, more cluster.time_min, or null for an automatic one",
            )
        if self.kind == "here" and self.tasks_per_node not in (None, 1):
            raise RequestError(f"cluster.tasks_per_node={self.tasks_per_node} needs processes", "use cluster=local")
        if self.kind != "slurm" and self.nodes > 1:
            raise RequestError(
                f"cluster.nodes={self.nodes} needs a cluster, and this one is {self.kind!r}", "add cluster=slurm"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, list) else [value]:
                refuse_control_characters(f"cluster.{field.name}", text)

    def lead_s(self, need_s: float | None) -> int:
        """How long before the time limit the job is warned, in seconds.

        Args:
            need_s: what the job was seen to need between a warning and its end; None where that is not known.
        """
        if self.signal_lead_s is not None:
            return self.signal_lead_s
        wanted = LEAD_S if need_s is None else math.ceil(need_s)
        return min(wanted, 60 * self.time_min // 3, _LONGEST_LEAD_S)

    @property
    def tasks(self) -> int:
        """Processes on every node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)


def refuse_control_characters(where: str, value: object) -> None:
    """A line break in a value that reaches a batch script would leave its ``#SBATCH`` line and run as a command.

    Raises:
        RequestError: ``value`` is a string with a control character.
    """
    if isinstance(value, str) and _CONTROL.search(value):
        raise RequestError(f"{where}={value!r} contains a control character", "write it without line breaks and tabs")
