"""What every job module offers, and what it is given when it runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from omegaconf import DictConfig

from jobs import JOBS
from jobs.compose import settings
from jobs.runfolder import JobFolder, Run
from mvdiff.durable import alone
from mvdiff.errors import Hopeless, InputError, counted
from mvdiff.events import EventLog
from slurm.cluster import Cluster
from slurm.place import Place
from slurm.requeue import TRIES


@dataclass(frozen=True)
class Context:
    """One process of a running job."""

    run: Run | None
    """None where a job works outside any run (verify, export)."""
    folder: JobFolder | None
    place: Place
    worker: int
    """Index of this worker in 0..workers-1."""
    workers: int
    should_stop: Callable[[], bool]
    """Whether the queue has asked the job to stop."""
    events: EventLog | None
    time_left: Callable[[], float] = lambda: math.inf
    """Seconds until the job's time limit, infinite where there is none. The first call may ask the queue: in a job of
    many ranks, one should call it for all."""


class JobFailed(Hopeless):
    """The work was done and its outcome is bad; one line says so, and the exit status is 1."""


@dataclass(frozen=True)
class Writes:
    """What a job is about to write into its run."""

    size: int
    """Bytes."""
    what: str
    certain: bool
    """Whether it takes that much at least; else it may take less."""


class Job(Protocol):
    """A module ``jobs.NAME``.

    More names may stand in it. ``warning_s(config, run) -> float | None`` tells how many seconds the job needs between
    the queue's warning and its end, as its earlier jobs in this run have measured; None: not known.
    ``bad_nodes(config, run) -> dict[str, str]``, asked after ``check``, names nodes that the job should not be given,
    each with the reason; names that the partition does not have are passed over.
    ``SEVERAL = True`` says that several processes of it work together, or beside each other; without it the job gets
    one, with one GPU at most, whatever the site's file asks for.
    ``COUNTS_STARTS = True`` says that ``work`` itself counts the starts of its job and ends one that gets nowhere by a
    ``Hopeless`` error; without it a job may end unasked ``slurm.requeue.TRIES`` times.
    ``writes(config, run) -> Writes | None``, asked after ``check``, tells what the job needs room for; None: little, or
    not known.
    ``CLAIMS_WORK = True`` says of an array that its workers claim what is to be done as they go, so that any of them
    do all of it; without it the queue takes either as many workers as asked for or none.
    ``check_ahead(config, run, coming)`` is ``check`` for a job that is queued behind others, which will write the
    folders ``coming``; without it nothing but the cluster is looked at. ``settle(config, run)`` then is ``check`` on
    the node, when those have been written; without it ``check`` is called there.
    ``chosen(config) -> dict[str, Any]``, asked after ``check``, names for ``--json`` what that may have chosen itself.
    ``unfinished(config, run) -> str | None`` belongs to ``CLAIMS_WORK``: what the workers have left undone, in words.
    """

    ARRAY: bool
    """Whether the job is an array of independent workers (else: one job whose tasks are ranks of one another)."""

    def check(self, config: DictConfig, run: Run | None) -> None:
        """Look at everything the job needs, on the machine that submits it, and make paths absolute; write nothing.

        Raises:
            InputError: the job could not succeed.
        """

    def prepare(self, config: DictConfig, run: Run | None) -> str | None:
        """Write what the job's workers share; a sentence where there is nothing left to do, else None."""

    def useful_workers(self, config: DictConfig, run: Run) -> int:
        """Of an array: more workers than this would find nothing to do; asked after ``prepare``."""

    def work(self, config: DictConfig, context: Context) -> str:
        """Do the work; return "done", or "stopped" when the queue asked for it and the state is safe on disk."""

    def figures(self, config: DictConfig, run: Run | None) -> dict[str, Any]:
        """What a finished job has to show, by name, most important first."""


def warning_s(module: Job, config: DictConfig, run: Run | None) -> float | None:
    """What the job ``module`` says that it needs between warning and end, in seconds; None where it says nothing."""
    measured: Callable[[DictConfig, Run | None], float | None] | None = getattr(module, "warning_s", None)
    return measured(config, run) if measured and run else None


def tell_unused_gpus(config: DictConfig, place: Place) -> None:
    """Say in the log that GPUs were asked for and torch computes on the CPU; to be called once torch is loaded."""
    import torch

    asked = config.cluster.gpus_per_node
    if place.first and asked and not torch.cuda.is_available():
        print(
            f"{counted(asked, 'GPU of a node was', 'GPUs of a node were')} asked for and torch {torch.__version__} "
            f"sees none on {place.node}: this computes on the CPU (mvdiff doctor cluster=SITE tells more)",
            flush=True,
        )


def share_of(module: Job, config: DictConfig) -> Cluster:
    """The cluster that ``config`` asks for, and of it what the job ``module`` has a use for.

    Raises:
        InputError, RequestError: it asks for what cannot be.
    """
    asked = settings(Cluster, config.cluster, "cluster")
    if getattr(module, "SEVERAL", False):
        return asked
    return replace(asked, nodes=1, tasks_per_node=1, gpus_per_node=min(asked.gpus_per_node, 1))


def writes(module: Job, config: DictConfig, run: Run) -> Writes | None:
    """What the job ``module`` is about to write."""
    told: Callable[[DictConfig, Run], Writes | None] | None = getattr(module, "writes", None)
    return told(config, run) if told else None


def chosen(module: Job, config: DictConfig) -> dict[str, Any]:
    """What the job ``module`` has chosen itself, by key."""
    named: Callable[[DictConfig], dict[str, Any]] | None = getattr(module, "chosen", None)
    return named(config) if named else {}


def bad_nodes(module: Job, config: DictConfig, run: Run) -> dict[str, str]:
    """Nodes that the job ``module`` should not be given, and why."""
    named: Callable[[DictConfig, Run], dict[str, str]] | None = getattr(module, "bad_nodes", None)
    return named(config, run) if named else {}


def claims_work(module: Job) -> bool:
    """Whether fewer workers of ``module`` than asked for do the same work."""
    return bool(getattr(module, "CLAIMS_WORK", False))


def check_ahead(module: Job, config: DictConfig, run: Run, coming: Sequence[Path]) -> None:
    """Look at what the job ``module`` needs and jobs ahead of it will not write.

    Raises:
        InputError: the job could not succeed.
    """
    check: Callable[[DictConfig, Run, Sequence[Path]], None] | None = getattr(module, "check_ahead", None)
    if check:
        check(config, run, coming)


def unfinished(folder: JobFolder) -> str | None:
    """What an ended job whose workers claim their work has left undone; None where nothing is, or where it is another
    kind of job, which has done all of its work if it ended well."""
    module = job(folder.job)
    if not claims_work(module):
        return None
    if folder.unsettled:
        return "never began"
    left: Callable[[DictConfig, Run], str | None] | None = getattr(module, "unfinished", None)
    return left(folder.config(), folder.run) if left else None


def refuse_unfinished(before: JobFolder, behind: JobFolder) -> None:
    """Whether a worker has failed does not matter to the job ``behind``, as long as others have done its work.

    Raises:
        InputError: the job ``before`` has left something undone.
    """
    left = unfinished(before)
    if left:
        together = before.run == behind.run
        again = (
            f"mvdiff retry {one.run.name}{'' if together else f' --job {one.path.name}'}" for one in (before, behind)
        )
        raise InputError(f"{before.path.name} of run {before.run.name} {left}", ", then ".join(dict.fromkeys(again)))


def settle(module: Job, folder: JobFolder) -> str | None:
    """Check and prepare on the node what could not be before its input was there; as ``prepare`` answers.

    Workers that start together do so one after the other, and the first one's findings count for all.

    Raises:
        InputError: the job cannot succeed.
    """
    # on a file system without locks all of them settle it, to the same end
    with alone(folder.path):
        if not folder.unsettled:
            return None
        for before in folder.follows():
            refuse_unfinished(before, folder)
        config = folder.config()
        check: Callable[[DictConfig, Run], None] = getattr(module, "settle", module.check)
        check(config, folder.run)
        nothing_left = module.prepare(config, folder.run)
        folder.settle(config)
        return nothing_left


def tries(module: Job) -> int | None:
    """How many unasked ends a job of ``module`` may have; None where it counts its starts itself."""
    return None if getattr(module, "COUNTS_STARTS", False) else TRIES


def job(name: str) -> Job:
    """The module of the job ``name``, one of ``JOBS``."""
    assert name in JOBS, name
    return cast(Job, import_module(f"jobs.{name}"))
