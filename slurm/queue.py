"""What the queue says of jobs, on clusters with and without accounting."""

import calendar
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from slurm.command import TIMEOUT_S, run
from slurm.errors import RequestError

ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "TIMEOUT", "UNKNOWN",
    }
)  # fmt: skip
"""States after which a job does not run again by itself. UNKNOWN: the queue has forgotten the job."""

_TAKES_JOBS = frozenset({"alloc", "comp", "idle", "mix", "plnd"})
"""States of a node, as sinfo shortens them, in which it runs jobs now or once those on it have ended."""


def job_states(job_ids: Iterable[str]) -> dict[str, str]:
    """State of each job (``RUNNING``, ``PENDING``, ``COMPLETED``, ...); ``UNKNOWN`` once the queue has forgotten it.

    ``job_ids`` as submitit gives them: ``123`` or ``123_4`` for a member of an array. Asks ``squeue``, which needs no
    accounting and remembers ended jobs for MinJobAge; then ``sacct`` for the rest, where it exists.
    """
    wanted = list(job_ids)
    if not wanted:
        return {}
    roots = ",".join(sorted({job.split("_")[0] for job in wanted}))
    try:
        output = run("squeue", "--noheader", "--array", "--states=all", f"--jobs={roots}", "--format=%i|%A|%T")
    except RequestError as error:
        if "Invalid job id" not in str(error):
            raise
        output = ""
    found: dict[str, str] = {}
    for line in output.splitlines():
        name, raw, state = line.strip().split("|")
        found[name] = found[raw] = state
    missing = [job for job in wanted if job not in found]
    if missing:
        found |= accounted(missing)
    return {job: found.get(job, "UNKNOWN") for job in wanted}


def job_fields(job_id: str) -> dict[str, str]:
    """What ``scontrol show job`` tells of one job, by name; empty where it cannot be told."""
    try:
        shown = run("scontrol", "show", "job", "--oneliner", job_id)
    except RequestError:
        return {}
    words = (word.split("=", 1) for word in shown.split() if "=" in word)
    return dict(reversed([(name, value) for name, value in words]))


def seconds(written: str) -> float:
    """A time span as SLURM writes it (``1-02:03:04``, ``02:03:04``, ``UNLIMITED``) in seconds."""
    if not written[:1].isdigit():
        return math.inf
    days, _, clock = written.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return total + 86400 * int(days or 0)


def moment(written: str) -> float:
    """A time as ``run`` has SLURM write it (``2026-11-24T15:44:49``) in seconds since 1970; infinite where unknown."""
    try:
        return calendar.timegm(time.strptime(written, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return math.inf


def accounted(job_ids: list[str], timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """State of those jobs that sacct knows, and of other members of their arrays; none where it does not answer."""
    try:
        # Whole arrays: the ids of all their members may be more than a command line holds.
        roots = ",".join(sorted({job.split("_")[0] for job in job_ids}))
        output = run("sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", f"--jobs={roots}",
                     timeout_s=timeout_s)  # fmt: skip
    except RequestError:
        return {}
    rows = (line.split("|") for line in output.splitlines() if "|" in line)
    return {name: re.split(r"[ +]", state)[0] for name, state in rows}


@dataclass(frozen=True)
class Pending:
    """A job that waits in the queue."""

    since: float
    """When it was submitted, or went back, in seconds since 1970."""
    why: str
    """SLURM's reason: Priority, Resources, ..."""


def pending(job_ids: list[str]) -> dict[str, Pending]:
    """Those of the jobs that wait, by id; of an array, by the id before the _."""
    if not job_ids:
        return {}
    output = run("squeue", "--noheader", "--states=PENDING", f"--jobs={','.join(job_ids)}", "--format=%F|%V|%r")
    rows = (line.strip().split("|") for line in output.splitlines())
    return {job_id: Pending(moment(since), why) for job_id, since, why in rows}


def partitions() -> list[str]:
    """Names of the partitions this user sees."""
    return sorted({line.strip().rstrip("*") for line in run("sinfo", "--noheader", "--format=%P").splitlines()})


def nodes(partition: str | None) -> dict[str, bool]:
    """Names of a partition's nodes (``a,b``: of both; None: of the default one), and whether each takes jobs."""
    asked = [f"--partition={partition}"] if partition else []
    found = {}
    for line in run("sinfo", "--noheader", "--Node", "--format=%N|%t|%P", *asked).splitlines():
        name, state, of = line.strip().split("|")
        if partition or of.endswith("*"):
            # After the state stand marks: * does not answer, $ is reserved for maintenance, others do no harm.
            found[name] = state.rstrip("~#!%@^-+") in _TAKES_JOBS
    return found


def host_names(listed: str) -> list[str]:
    """The names in a list as SLURM writes them: n[1-3],n7."""
    return run("scontrol", "show", "hostnames", listed).split()


def host_list(names: list[str]) -> str:
    """The names as SLURM writes lists: n[1-3],n7."""
    return run("scontrol", "show", "hostlistsorted", ",".join(names)).strip()


def cpus(node: str) -> int:
    """How many CPUs of a node SLURM gives to jobs."""
    shown = run("scontrol", "show", "node", "--oneliner", node)
    found = re.search(r"\bCPUEfctv=(\d+)", shown) or re.search(r"\bCPUTot=(\d+)", shown)
    if found is None:
        raise RequestError(f"scontrol does not say how many CPUs node {node} has", f"see scontrol show node {node}")
    return int(found.group(1))


def largest_array() -> int:
    """How many members an array may have."""
    shown = run("scontrol", "show", "config")
    limits = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", shown, re.MULTILINE)
    return max(1, min(int(a or b) for a, b in limits))
