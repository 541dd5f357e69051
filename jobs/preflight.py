"""What is looked at before a job is queued: all that is wrong is told at once, and what may go wrong as well."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from jobs.compose import all_of
from jobs.job import job
from jobs.room import refuse_full, refuse_too_large, tightness
from jobs.runfolder import Run
from mvdiff.errors import InputError, refuse
from mvdiff.events import read_events
from mvdiff.progress import duration
from mvdiff.train.status import status
from slurm.cluster import Cluster
from slurm.errors import RequestError
from slurm.visibility import unseen

T = TypeVar("T")

_OF_ONE_MACHINE = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""File systems that a machine has for itself, unless it shares them by NFS with others."""
_PRIVATE = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/run")))


class Findings:
    """What several looks have found wrong."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def look(self, check: Callable[[], T]) -> T | None:
        """What ``check`` returns; None where it refuses, which is kept for ``refuse``."""
        try:
            return check()
        except (InputError, RequestError) as error:
            found = all_of(error)
        told = set(map(str, self._errors))
        self._errors += [error for error in found if str(error) not in told]
        return None

    @property
    def none(self) -> bool:
        """Whether nothing is wrong so far."""
        return not self._errors

    def refuse(self) -> None:
        """Raise what was found, if anything was: the one thing that is wrong, or ``Refusals`` with all of them."""
        refuse(self._errors)


def look_around(
    findings: Findings, name: str, config: DictConfig, cluster: Cluster, run: Run | None, *, from_node: bool
) -> None:
    """Add to ``findings`` what is wrong with disks, paths and memory; ``from_node``: a node may be asked to look."""
    if run is None or "check_on_node" not in config:
        return
    findings.look(lambda: _refuse_unclear(config))
    if findings.none:
        # what is asked for makes sense so far
        findings.look(lambda: refuse_full(job(name), config, run))
        if "check_memory" in config:
            findings.look(lambda: refuse_too_large(name, config, cluster))
    if from_node:
        findings.look(lambda: refuse_unseen(config, cluster, run))


def _refuse_unclear(config: DictConfig) -> None:
    for key in ("check_on_node", "check_memory"):
        if not isinstance(config.get(key, False), bool):
            raise InputError(f"{key}={config[key]} cannot be", "give true or false")


def tell_remarks(name: str, config: DictConfig, cluster: Cluster, run: Run | None) -> None:
    """Write on standard error what need not be wrong."""
    if run is not None and "check_on_node" in config:
        for line in remarks(name, config, cluster, run):
            print(f"mvdiff {name}: {line}", file=sys.stderr)


def remarks(name: str, config: DictConfig, cluster: Cluster, run: Run) -> list[str]:
    """What need not be wrong, a line each: a full disk, a time limit that is short, paths that nodes may not see."""
    told = []
    if tight := tightness(job(name), config, run):
        told.append(tight)
    left = _left_s(config, run) if name == "train" else None
    if left is not None and left > 60 * cluster.time_min:
        told.append(
            f"some {duration(left)} of training are left at the pace measured so far, and cluster.time_min="
            f"{cluster.time_min} ends each start before that: it comes back to the queue and goes on"
        )
    if cluster.kind == "slurm" and not config.check_on_node:
        seen = [Path(folder) for folder in cluster.shared]
        of_one = [
            path
            for path in paths(config, run)
            if of_one_machine(path) and not any(path.is_relative_to(folder) for folder in seen)
        ]
        if of_one:
            told.append(
                f"{', '.join(map(str, of_one))}: on a disk of this machine, as it seems, which nodes may not see; "
                "check_on_node=true looks from one, cluster.shared=[FOLDER] says that they do"
            )
    return told


def refuse_unseen(config: DictConfig, cluster: Cluster, run: Run) -> None:
    """Look from a node whether it sees what the job needs, where ``check_on_node`` asks for that.

    Raises:
        InputError: a node does not see a path.
        RequestError: no node was free to look.
    """
    if cluster.kind != "slurm" or not config.check_on_node:
        return
    missing = unseen(cluster, paths(config, run))
    if missing:
        raise InputError(
            f"{', '.join(map(str, missing))}: not to be read on a node of this cluster",
            "put it on a file system that all nodes share",
        )


def paths(config: DictConfig, run: Run) -> list[Path]:
    """What the job's nodes must see, of the run folder the part that is there already; none twice."""
    place = run.path
    while not place.exists():
        place = place.parent
    given = [config.get(key) for key in ("checkpoint", "results", "train_data", "validation", "prior")]
    given += [config.data.path, config.model.get("pretrained") if "model" in config else None]
    found = [Path(str(one)).expanduser().absolute() for one in given if one]
    return list(dict.fromkeys([place, *(path for path in found if path.exists())]))


def of_one_machine(path: Path, mounts: str | None = None) -> bool:
    """Whether ``path`` seems to lie on a file system of this machine alone.

    Args:
        mounts: what to read in place of /proc/mounts.
    """
    real = path.resolve()
    if any(real.is_relative_to(folder) for folder in _PRIVATE):
        return True
    text = Path("/proc/mounts").read_text() if mounts is None else mounts
    kinds = {
        Path(os.fsdecode(words[1].encode())): words[2] for line in text.splitlines() if len(words := line.split()) > 2
    }
    on = next((folder for folder in (real, *real.parents) if folder in kinds), None)
    return on is not None and kinds[on] in _OF_ONE_MACHINE


def _left_s(config: DictConfig, run: Run) -> float | None:
    """Seconds of training that are left at the pace of the run's jobs so far; None where none has told its pace."""
    now = status(event for folder in run.jobs() if folder.job == "train" for event in read_events(folder.events))
    steps = config.train.steps or now.steps
    if not now.samples_per_second or not steps:
        return None
    return max(0, steps - (now.saved or 0)) * config.train.batch / now.samples_per_second
