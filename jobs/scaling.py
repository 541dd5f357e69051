"""`mvdiff bench scaling cluster=SITE`: one process and several, sent to the queue the way all jobs are."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from jobs.job import JobFailed
from jobs.measurement import Measurement, figures
from jobs.runfolder import JobFolder, Run, Taken
from jobs.watch import finished, first_error, watch
from mvdiff.bench.settings import GENERATION
from mvdiff.errors import InputError
from slurm.cluster import Cluster
from slurm.errors import RequestError
from slurm.sbatch import cancel
from slurm.submission import Submission
from slurm.submitter import Submitter


def scaling(config: DictConfig, cluster: Cluster, words: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Send four jobs, one after the other, so that none takes anything from another; what they found, compared.

    Training is one job of one task, then one of ``bench.ranks`` tasks over ``cluster.nodes`` nodes. Generation is one
    worker, then an array of as many.

    Raises:
        RequestError, InputError: the queue does not take them, or the ranks cannot be shared among the nodes.
        JobFailed: one of them failed.
    """
    from mvdiff.bench.scaling import compared

    os.umask(0o077)
    asked = [(str(part), count) for part in config.bench.parts for count in (1, int(config.bench.ranks))]
    shares = {(part, count): _share(cluster, part == GENERATION, count) for part, count in asked}
    folder = _created(config, words)
    submitters = {
        (part, count): Submitter(
            share, f"bench-{part}-{count}", folder.logs, folder.code, share.lead_s(None), 1, tell
        )
        for (part, count), share in shares.items()
    }  # fmt: skip
    try:
        for (part, count), submitter in submitters.items():
            submitter.check(count if part == GENERATION else None)
    except RequestError:
        folder.discard()
        raise
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for (part, count), submitter in submitters.items():
        place = figures(folder, part, count)
        place.mkdir(parents=True)
        sent = submitter.submit(Measurement(folder.path, part, count), count if part == GENERATION else None)
        folder.remember(sent)
        tell(f"bench: {part}, {count} at once: job {sent.shown}, logs in {folder.logs}")
        _wait(f"{part} {count}", folder, sent)
        found.setdefault(part, {})[count] = [
            json.loads((place / f"{index}.json").read_text(encoding="utf-8")) for index in range(count)
        ]
    return compared(found)


def _share(cluster: Cluster, independent: bool, count: int) -> Cluster:
    """What of ``cluster`` a job of ``count`` processes takes: a GPU for each, where there are GPUs."""
    if independent or count == 1:
        nodes = tasks = 1
    elif count % cluster.nodes:
        raise InputError(
            f"bench.ranks={count} cannot be shared among cluster.nodes={cluster.nodes}", "change one of them"
        )
    else:
        nodes, tasks = cluster.nodes, count // cluster.nodes
    gpus = tasks if cluster.gpus_per_node else 0
    workers = count if independent else 1
    return replace(cluster, nodes=nodes, tasks_per_node=tasks, gpus_per_node=gpus, workers=workers)


def _created(config: DictConfig, words: Sequence[str]) -> JobFolder:
    run = Run.named(str(config.runs), ".bench")
    while True:
        folder = run.next_job("bench")
        with suppress(Taken):
            folder.create(config, words)
            return folder


def _wait(name: str, folder: JobFolder, sent: Submission) -> None:
    """Stay until the job has ended, showing its log; interrupted, it is cancelled."""
    try:
        ended = watch(name, sent, lambda submission, _alive: submission)
    except BaseException:
        if sent.kind == "slurm":
            with suppress(RequestError):
                cancel(sorted({id_.partition("_")[0] for id_ in sent.job_ids}))
        raise
    if not finished(folder, sent):
        raise JobFailed(first_error(folder, ended))
