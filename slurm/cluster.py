"""What a job asks of a cluster: one settings object, the same for a laptop and for SLURM."""

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from slurm.errors import RequestError, refuse

_LEAST = {
    "nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "workers": 1, "cpus_per_task": 1, "cpus_per_gpu": 1,
    "memory_gb": 0, "memory_per_cpu_gb": 0.1, "memory_per_gpu_gb": 0.1, "time_min": 1, "signal_lead_s": 0,
    "signal_late_s": 0,
}  # fmt: skip

_ENDLESS = 10**9
"""No number that anybody means is as large, and SLURM counts some in 32 bits."""

LEAD_S = 180
"""Seconds between warning and time limit of a job that nothing is known of."""
_LONGEST_LEAD_S = 65535  # sbatch takes no more

KINDS = ("here", "local", "slurm")
GPU_REQUESTS = ("gpus-per-node", "gres", "gpus-per-task")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_GPU_TYPE = re.compile(r"[\w.-]+")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_VARIABLES = re.compile(r"PYTHONPATH|SUBMITIT_\w+|SLURM_\w+|SRUN_CPUS_PER_TASK")
_FOR_SBATCH = frozenset(
    {
        "partition", "account", "qos", "reservation", "constraint", "exclude", "comment", "mail_user", "mail_type",
        "extra",
    }
)  # fmt: skip
"""Keys whose values stand in options of sbatch."""
_OWN_OPTIONS = frozenset(
    {
        "array", "chdir", "cpus-per-task", "dependency", "error", "export", "gpus-per-node", "gpus-per-task", "gres",
        "job-name", "mem", "nodes", "no-requeue", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue",
        "signal", "test-only", "time", "wait", "wrap",
    }
)  # fmt: skip
"""Options of sbatch that jobs rest on, and those that other keys stand for."""


@dataclass(frozen=True)
class Cluster:
    """A site and the share of it that a job asks for (``configs/cluster/*.yaml`` hold the values)."""

    kind: str
    """here: in the calling process; local: submitit's local executor; slurm: sbatch."""
    nodes: int
    """Nodes of one job (training spans them; a generation worker needs one)."""
    gpus_per_node: int
    """GPUs asked for on every node; 0 runs on CPUs."""
    gpu_type: str | None
    """Their kind, as the site calls it (sinfo's GRES column: a100, h200); null takes any."""
    gpu_request: str
    """The option that they are asked for with, one of ``GPU_REQUESTS``."""
    card: str | int | float | None
    """What one of them has of memory, as ``mvdiff.model.gpu.card`` takes it; null where that is not known."""
    tasks_per_node: int | None
    """Processes on every node; null means one a GPU, or one where there are none."""
    workers: int
    """Independent workers of a job that has them (synth, generate): an array of this length."""
    cpus_per_task: int
    """CPU cores of every process."""
    cpus_per_gpu: int | None
    """CPU cores for every GPU, which a job with GPUs takes in place of ``cpus_per_task``."""
    memory_gb: float | None
    """Memory of a node; 0: all that it has; null, with the next two, leaves it to the site."""
    memory_per_cpu_gb: float | None
    memory_per_gpu_gb: float | None
    time_min: int
    """Time limit in minutes."""
    signal_lead_s: int | None
    """How long before the time limit the warning signal is sent, in seconds (SLURM may send it 60 s earlier); null: as
    ``lead_s`` finds it."""
    signal_late_s: int
    """How much later than asked for this site sends it, in seconds: it is asked for so much earlier."""
    partition: str | None
    account: str | None
    qos: str | None
    reservation: str | None
    constraint: str | None
    exclude: str | None
    """Nodes to keep away from, as SLURM writes lists: n[1-3],n7."""
    exclusive: bool
    """Whether nobody else's jobs share the nodes."""
    comment: str | None
    mail_user: str | None
    mail_type: str | None
    """Of what SLURM writes mails: END,FAIL."""
    extra: dict[str, Any]
    """Further options of sbatch, by their long names; true for one that takes no value, null for none."""
    srun_args: list[str]
    """Further options of the srun that starts the processes (--mpi=none, --container-image=...)."""
    modules: list[str]
    """Environment modules loaded on the batch node; a job without one of them does not begin."""
    setup: list[str]
    """Shell lines run before the job on the batch node."""
    environment: dict[str, Any]
    """Variables of every process."""
    python: str | None
    """Path of the Python of every process, on its node or in the container; null: the one that submits."""
    container: str | None
    """Command put before that Python: apptainer exec --nv IMAGE."""
    scratch: str | None
    """Folder on every node's own disk, in which each process has a folder for temporary files; $NAME in it stands for a
    variable of the process."""
    network_interface: str | None
    """The network over which nodes exchange gradients: ib0."""
    shared: list[str]
    """Folders that all nodes see, with all that lies in them, though it may not look so from here."""

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[RequestError]:
        if self.kind not in KINDS:
            yield RequestError(f"cluster.kind={self.kind!r} is unknown", f"choose one of {', '.join(KINDS)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < _ENDLESS:
                bound = f"less than {_ENDLESS}" if value >= _ENDLESS else f"at least {least}"
                yield RequestError(f"cluster.{name}={value} cannot be", f"give {bound}")
        if self.signal_lead_s is not None and self.signal_lead_s >= 60 * self.time_min:
            yield RequestError(
                f"cluster.signal_lead_s={self.signal_lead_s} is no less than the time limit of {self.time_min} min",
                "give fewer seconds, more cluster.time_min, or null for an automatic one",
            )
        if self.kind == "here" and self.tasks_per_node not in (None, 1):
            yield RequestError(f"cluster.tasks_per_node={self.tasks_per_node} needs processes", "use cluster=local")
        if self.kind != "slurm" and self.nodes > 1:
            yield RequestError(
                f"cluster.nodes={self.nodes} needs a cluster, and this one is {self.kind!r}", "add cluster=slurm"
            )
        for field in fields(self):
            for text in _texts(getattr(self, field.name)):
                try:
                    refuse_control_characters(f"cluster.{field.name}", text)
                    if field.name in _FOR_SBATCH:
                        refuse_backslashes(f"cluster.{field.name}", text)
                except RequestError as error:
                    yield error
        for name in ("setup", "modules", "srun_args", "shared"):
            for one in getattr(self, name):
                if not isinstance(one, str):
                    yield RequestError(f"cluster.{name} has {one!r}, which is no text", "quote it")
        for folder in self.shared:
            if isinstance(folder, str) and not folder.startswith("/"):
                yield RequestError(f"cluster.shared has {folder!r}, which is no whole path", "write it from / on")
        yield from self._wrong_gpus()
        yield from self._wrong_memory()
        yield from self._wrong_further()

    def _wrong_gpus(self) -> Iterator[RequestError]:
        if self.gpu_request not in GPU_REQUESTS:
            yield RequestError(
                f"cluster.gpu_request={self.gpu_request!r} is unknown", f"choose one of {', '.join(GPU_REQUESTS)}"
            )
        if self.gpu_type is not None and not _GPU_TYPE.fullmatch(self.gpu_type):
            yield RequestError(
                f"cluster.gpu_type={self.gpu_type!r} is no kind of GPU", "write it as sinfo --format=%G does: a100"
            )
        if self.gpu_request == "gpus-per-task" and self.gpus_per_node % self.tasks:
            yield RequestError(
                f"cluster.gpus_per_node={self.gpus_per_node} cannot be shared by {self.tasks} tasks alike",
                "change cluster.tasks_per_node, or say cluster.gpu_request=gpus-per-node",
            )

    def _wrong_memory(self) -> Iterator[RequestError]:
        keys = ("memory_gb", "memory_per_cpu_gb", "memory_per_gpu_gb")
        given = [f"cluster.{key}" for key in keys if getattr(self, key) is not None]
        if len(given) > 1:
            yield RequestError(f"{' and '.join(given)} are given, and SLURM takes one", f"set {given[1]}=null")

    def _wrong_further(self) -> Iterator[RequestError]:
        for name, value in self.extra.items():
            if not _OPTION.fullmatch(str(name)) or isinstance(value, dict | list):
                yield RequestError(
                    f"cluster.extra has {name}: {value!r}, which is no option of sbatch",
                    "write its long name without dashes, and one value: cluster.extra={licenses: 'matlab:1'}",
                )
            # a beginning of an option's name stands for it as well
            elif any(own.startswith(name) for own in _OWN_OPTIONS) or name.replace("-", "_") in _OWN_KEYS:
                yield RequestError(
                    f"cluster.extra has {name}, which mvdiff sets", "see mvdiff train --keys for its key"
                )
        for name, value in self.environment.items():
            if not _VARIABLE.fullmatch(str(name)) or isinstance(value, dict | list):
                yield RequestError(
                    f"cluster.environment has {name}: {value!r}, which is no variable", "write NAME: value"
                )
            elif _OWN_VARIABLES.fullmatch(name):
                yield RequestError(f"cluster.environment has {name}, which jobs need as it is", "leave it away")
        try:
            shlex.split(self.container or "")
        except ValueError as error:
            yield RequestError(
                f"cluster.container={self.container!r} is no command ({error})", "quote it as in a shell"
            )
        if self.scratch is not None and not self.scratch.startswith(("/", "$")):
            yield RequestError(
                f"cluster.scratch={self.scratch!r} depends on where a job starts", "begin it with / or $"
            )

    def lead_s(self, need_s: float | None) -> int:
        """How long before the time limit the job is warned, in seconds.

        Args:
            need_s: what the job was seen to need between a warning and its end; None where that is not known.
        """
        if self.signal_lead_s is not None:
            return min(self.signal_lead_s + self.signal_late_s, _LONGEST_LEAD_S)
        wanted = self.signal_late_s + (LEAD_S if need_s is None else math.ceil(need_s))
        return min(wanted, 60 * self.time_min // 3, _LONGEST_LEAD_S)

    @property
    def tasks(self) -> int:
        """Processes on every node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def cpus(self) -> int:
        """CPU cores of every process."""
        if self.cpus_per_gpu is None or not self.gpus_per_node:
            return self.cpus_per_task
        return math.ceil(self.cpus_per_gpu * self.gpus_per_node / self.tasks)

    @property
    def gpus_of_a_task(self) -> int:
        """GPUs that each process sees."""
        return self.gpus_per_node // (self.tasks if self.gpu_request == "gpus-per-task" else 1)

    @property
    def place(self) -> dict[str, str]:
        """Where in the cluster a job runs, and for whom: options of sbatch and srun by their long names."""
        keys = ("partition", "account", "qos", "reservation", "constraint", "exclude")
        return {key: value for key in keys if (value := getattr(self, key))}

    @property
    def gpus(self) -> dict[str, str]:
        """The option, by its long name, that asks for a node's GPUs; none where there are none."""
        if not self.gpus_per_node:
            return {}
        kind = f"{self.gpu_type}:" if self.gpu_type else ""
        if self.gpu_request == "gres":
            return {"gres": f"gpu:{kind}{self.gpus_per_node}"}
        return {self.gpu_request: f"{kind}{self.gpus_of_a_task}"}

    @property
    def memory(self) -> dict[str, str]:
        """The option, by its long name, that asks for memory; none where that is the site's own matter."""
        per_gpu = self.memory_per_gpu_gb if self.gpus_per_node else None
        keys = {"mem": self.memory_gb, "mem-per-cpu": self.memory_per_cpu_gb, "mem-per-gpu": per_gpu}
        return {option: _megabytes(gb) for option, gb in keys.items() if gb is not None}


def refuse_backslashes(where: str, value: object) -> None:
    """sbatch reads a backslash in its options as a sign that the next character is meant, within quotes as well.

    Raises:
        RequestError: ``value`` is a string with one.
    """
    if isinstance(value, str) and "\\" in value:
        raise RequestError(f"{where}={value!r} has a backslash, which sbatch takes away", "write it without")


def _megabytes(gb: float) -> str:
    """As SLURM writes memory; its units are binary."""
    return f"{int(gb)}G" if gb == int(gb) else f"{round(gb * 1024)}M"


def _texts(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from (key, one)
    elif isinstance(value, list):
        yield from value
    else:
        yield value


_OWN_KEYS = frozenset(field.name for field in fields(Cluster))


def refuse_control_characters(where: str, value: object) -> None:
    """A line break in a value that reaches a batch script would leave its ``#SBATCH`` line and run as a command.

    Raises:
        RequestError: ``value`` is a string with a control character.
    """
    if isinstance(value, str) and _CONTROL.search(value):
        raise RequestError(f"{where}={value!r} contains a control character", "write it without line breaks and tabs")
