"""What a cluster has to offer to its user: partitions with their nodes, accounts, and the requests that it takes."""

import getpass
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slurm.cluster import GPU_REQUESTS, Cluster
from slurm.command import reason, run
from slurm.errors import Full, Refused, RequestError, Unanswered, counted
from slurm.patience import persevere
from slurm.queue import seconds
from slurm.sbatch import try_out
from slurm.script import BatchScript

_COLUMNS = 7
_NOWHERE = Path("/nowhere")
_GPU = re.compile(r"\bgpu:(?:([^:,()]+):)?(\d+)")


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike."""

    count: int
    cpus: int
    """Of each node."""
    memory_gb: float
    """Of each node, by 1024s."""
    gpu_type: str | None
    gpus: int
    """Of each node."""


@dataclass(frozen=True)
class Partition:
    """A partition that takes jobs."""

    name: str
    default: bool
    minutes: int | None
    """The longest time limit of a job; None: there is none."""
    nodes: tuple[Nodes, ...]

    @property
    def gpus(self) -> int:
        """GPUs of all its nodes."""
        return sum(kind.count * kind.gpus for kind in self.nodes)

    @property
    def gpus_of_a_node(self) -> int:
        """GPUs of the node that has most of them."""
        return max(kind.gpus for kind in self.nodes)

    @property
    def typical(self) -> Nodes:
        """Its kind of node with the most GPUs in all, or the most nodes where there are none."""
        return max(self.nodes, key=lambda kind: (kind.count * kind.gpus, kind.count))

    def shown(self) -> str:
        """For people: how many nodes with what."""
        kinds = []
        for kind in self.nodes:
            gpus = f"{kind.gpus} {kind.gpu_type or 'GPUs'}, " if kind.gpus else ""
            kinds.append(f"{kind.count} x ({gpus}{kind.cpus} CPUs, {kind.memory_gb:.0f} GiB)")
        limit = "no time limit" if self.minutes is None else f"up to {span(self.minutes)}"
        return f"{', '.join(kinds)}, {limit}"


def partitions() -> list[Partition]:
    """Those that are up and that this user sees, with most GPUs first.

    Raises:
        RequestError: sinfo does not answer.
    """
    told = run("sinfo", "--noheader", "--exact", "--format=%P|%a|%D|%c|%m|%G|%l")
    found: dict[str, tuple[bool, int | None, list[Nodes]]] = {}
    for line in told.splitlines():
        columns = line.strip().split("|")
        # sites wrap sinfo in programs that print more
        if len(columns) != _COLUMNS or columns[1] != "up":
            continue
        name, _, count, cpus, memory, gres, limit = columns
        longest = seconds(limit)
        minutes = None if math.isinf(longest) else int(longest // 60)
        kinds = found.setdefault(name.rstrip("*"), (name.endswith("*"), minutes, []))[2]
        gpu_type, gpus = gpus_of(gres)
        kind = Nodes(int(count), int(cpus), int(memory) / 1024, gpu_type, gpus)
        kinds[:] = _together([*kinds, kind])
    listed = [
        Partition(name, default, minutes, tuple(kinds)) for name, (default, minutes, kinds) in found.items() if kinds
    ]
    return sorted(listed, key=lambda one: (-one.gpus, not one.default, one.name))


def _together(kinds: Iterable[Nodes]) -> list[Nodes]:
    """Nodes that sinfo tells apart by their state alone, as one."""
    counts: dict[tuple[int, float, str | None, int], int] = {}
    for kind in kinds:
        what = kind.cpus, kind.memory_gb, kind.gpu_type, kind.gpus
        counts[what] = counts.get(what, 0) + kind.count
    return [Nodes(count, *what) for what, count in counts.items()]


def gpus_of(gres: str) -> tuple[str | None, int]:
    """Kind and number of a node's GPUs, as sinfo writes its resources: ``gpu:a100:4(S:0-1)``, ``gpu:4``, ``(null)``.

    Of several kinds in one node the first is told, and how many all are.
    """
    found = _GPU.findall(gres)
    return (found[0][0] or None, sum(int(count) for _, count in found)) if found else (None, 0)


def accounts() -> list[str]:
    """The accounts that this user's jobs may be charged to, the usual one first; none where nobody keeps account."""
    user = getpass.getuser()
    try:
        usual = run("sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=DefaultAccount").split()
        told = run("sacctmgr", "--noheader", "--parsable2", "show", "association", f"user={user}", "format=Account")
    except RequestError:
        return []
    names = dict.fromkeys([*usual, *told.split()])
    return [name for name in names if name]


def accepted(cluster: Cluster, tell: Callable[[str], None]) -> str | None:
    """What SLURM has against a job of that kind, asked without queueing it; None: nothing.

    A queue that does not answer is asked again, which is ``tell``-ed. That the user has too many jobs there already, or
    that the queue is full, is nothing against the kind.

    Raises:
        Unanswered: the queue does not answer.
    """
    script = BatchScript(cluster, "mvdiff-new", _NOWHERE, _NOWHERE, cluster.lead_s(None), None)
    try:
        persevere(lambda: try_out(script.text(None)), tell, Full)
    except (Refused, Full):
        return None
    except Unanswered:
        raise
    except RequestError as error:
        return reason(error)
    return None


def fitted(cluster: Cluster, tell: Callable[[str], None]) -> tuple[Cluster, str | None]:
    """``cluster`` with a way of asking for GPUs, and for memory, that SLURM takes, and what it has against all of them.

    Raises:
        Unanswered: the queue does not answer.
    """
    styles = [cluster.gpu_request, *(style for style in GPU_REQUESTS if style != cluster.gpu_request)]
    without_memory: dict[str, Any] = {"memory_gb": None, "memory_per_cpu_gb": None, "memory_per_gpu_gb": None}
    first = None
    for memory in (dict[str, Any](), without_memory):
        for style in styles if cluster.gpus_per_node else styles[:1]:
            tried = replace(cluster, gpu_request=style, **memory)
            refusal = accepted(tried, tell)
            if refusal is None:
                return tried, None
            first = first or refusal
    return cluster, first


def beyond(cluster: Cluster) -> Iterator[RequestError]:
    """What of ``cluster`` its partition's limit or the largest of its nodes forbids.

    Raises:
        RequestError: sinfo does not answer.
    """
    names = (cluster.partition or "").split(",")
    chosen = [one for one in partitions() if (one.name in names if cluster.partition else one.default)]
    if not chosen:
        return
    looks = (
        lambda: refuse_minutes("cluster.time_min", cluster.time_min, chosen, cluster.qos),
        lambda: refuse_gpus("cluster.gpus_per_node", cluster.gpus_per_node, chosen),
        lambda: refuse_cpus(cluster, chosen),
    )
    for look in looks:
        try:
            look()
        except RequestError as error:
            yield error


def refuse_minutes(key: str, minutes: int, chosen: Sequence[Partition], qos: str | None) -> None:
    """
    Raises:
        RequestError: the time limit ``minutes`` is longer than all partitions of ``chosen`` allow, or none.
    """
    limits = [one.minutes for one in chosen if one.minutes is not None]
    # a QOS may lift the limit of a partition
    most = max(limits) if len(limits) == len(chosen) and qos is None else None
    if minutes < 1 or (most is not None and minutes > most):
        ends = f"partition {_named(chosen)} ends jobs after {span(most)}" if most else "a job takes a minute at least"
        raise RequestError(f"{key}={minutes} cannot be: {ends}", f"give 1 to {most}" if most else "give 1 or more")


def refuse_gpus(key: str, gpus: int, chosen: Sequence[Partition]) -> None:
    """
    Raises:
        RequestError: no node of the partitions ``chosen`` has so many.
    """
    most = max(one.gpus_of_a_node for one in chosen)
    if not 0 <= gpus <= most:
        has = f"has more than {counted(most, 'GPU')}" if most else "has GPUs"
        raise RequestError(
            f"{key}={gpus} cannot be: no node of partition {_named(chosen)} {has}",
            f"give 0 to {most}" if most else "give 0",
        )


def refuse_cpus_of_a_task(key: str, cpus: int, chosen: Sequence[Partition]) -> None:
    """
    Raises:
        RequestError: no node of the partitions ``chosen`` has so many CPUs for one process.
    """
    most = max(kind.cpus for one in chosen for kind in one.nodes)
    if not 1 <= cpus <= most:
        raise RequestError(
            f"{key}={cpus} cannot be: a node of partition {_named(chosen)} has {counted(most, 'CPU')} at most",
            f"give 1 to {most}",
        )


def refuse_cpus(cluster: Cluster, chosen: Sequence[Partition]) -> None:
    """
    Raises:
        RequestError: no node of the partitions ``chosen`` has as many as its tasks would take.
    """
    most = max(kind.cpus for one in chosen for kind in one.nodes)
    asked = cluster.tasks * cluster.cpus
    if asked > most:
        key = "cpus_per_task" if cluster.cpus_per_gpu is None or not cluster.gpus_per_node else "cpus_per_gpu"
        raise RequestError(
            f"{asked} CPUs of a node (tasks: {cluster.tasks}, CPUs a task: {cluster.cpus}) cannot be: no node of "
            f"partition {_named(chosen)} has more than {most}",
            f"lower cluster.{key} or cluster.tasks_per_node",
        )


def _named(chosen: Sequence[Partition]) -> str:
    return ", ".join(one.name for one in chosen)


def span(minutes: int) -> str:
    """For people: 1 d 2 h 3 min."""
    days, rest = divmod(minutes, 1440)
    hours, rest = divmod(rest, 60)
    parts = [f"{number} {unit}" for number, unit in ((days, "d"), (hours, "h"), (rest, "min")) if number]
    return " ".join(parts) or "0 min"
