"""Submit one job and, if asked, stay with it until it ends."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jobs.compose import composed, refuse_wrong
from jobs.job import Context, Job, bad_nodes, chosen, claims_work, job, share_of, tries, warning_s
from jobs.preflight import Findings, look_around, tell_remarks
from jobs.runfolder import PRIVATE, SHARED, JobFolder, Run, Taken, share, short
from jobs.task import Task
from jobs.watch import finished, first_error, watch
from mvdiff.errors import InputError
from slurm.cluster import Cluster
from slurm.errors import RequestError
from slurm.exclusion import dispensable, excluding
from slurm.place import here
from slurm.sbatch import Before
from slurm.stop import handlers_kept
from slurm.submission import Submission
from slurm.submitter import Submitter


@dataclass(frozen=True)
class Shares:
    """Workers of an array that have shares of their own."""

    of: int
    """Among so many were the shares divided."""
    workers: Sequence[int]


@dataclass(frozen=True)
class Request:
    """A job as it was asked for on the command line."""

    name: str
    words: Sequence[str]
    dry_run: bool = False
    wait: bool = False
    as_json: bool = False
    again: Shares | None = None
    """Of a job that is submitted once more: what of it."""
    then: "Sequence[Request]" = ()
    """What the same command goes on to when this job has ended, where no queue knows of that."""


def launch(request: Request) -> int:
    """Check, submit and perhaps wait; returns the exit status (0 done or queued, 1 the job failed).

    Raises:
        InputError, RequestError: the request was wrong, or the queue takes nothing; no folder of the job is left.
    """
    os.umask(PRIVATE)
    config = composed(request.name, request.words)
    module = job(request.name)
    findings = Findings()
    findings.look(partial(refuse_wrong, config))
    cluster = findings.look(partial(share_of, module, config))
    run = findings.look(partial(run_of, config))
    if cluster is None or (run is None and cluster.kind != "here"):
        findings.refuse()
    assert cluster is not None
    answer: dict[str, Any] = {"job": request.name, "run": run.name if run else None, "state": "done"}
    workers = cluster.workers if module.ARRAY else None
    folder = run.next_job(request.name) if run else None
    submitter = submitter_of(request, module, config, folder, cluster) if folder else None
    queue_answers = not request.dry_run or shutil.which("sbatch") is not None
    if submitter and queue_answers:
        findings.look(partial(submitter.check, workers))
    findings.look(partial(module.check, config, run))
    look_around(findings, request.name, config, cluster, run, from_node=not request.dry_run)
    findings.refuse()
    tell_remarks(request.name, config, cluster, run)
    answer |= chosen(module, config)
    if folder and submitter and queue_answers and cluster.kind == "slurm":
        submitter = off_bad_nodes(request, module, config, folder, submitter, workers)
    again = again_of(request, module, config, run)
    if request.dry_run:
        script = submitter.script(len(again) if again else workers) if submitter else OmegaConf.to_yaml(config)
        print(json.dumps({**answer, "state": "dry-run", "script": script}) if request.as_json else script.rstrip("\n"))
        return 0
    if run:
        share(run, config.group_readable)
        _tell_closed(request, run)
    nothing_left = module.prepare(config, run)
    if nothing_left:
        say(request, f"{request.name}: {nothing_left}")
        return _finish(request, answer, module, config, run)
    if cluster.kind == "here" or folder is None or submitter is None:
        return _work_here(request, answer, module, config, folder)
    if workers is not None:
        workers = config.cluster.workers = min(workers, module.useful_workers(config, folder.run))
        if workers < cluster.workers:
            say(request, f"{request.name}: {workers} of {cluster.workers} workers, which is all that have work to do")
    folder = created(request, module, config, folder)
    submitter = submitter_of(request, module, config, folder, submitter.cluster).take_over(submitter)
    submission = handed_over(submitter, module, folder, workers, again)
    folder.remember(submission)
    where = "on this machine" if cluster.kind == "local" else "in the queue"
    say(request, f"{request.name}: job {submission.shown} {where}, logs in {short(folder.logs)}")
    answer |= {"job_ids": submission.job_ids, "folder": str(folder.path)}
    if not request.wait:
        return _print_answer(request, {**answer, "state": "submitted"}, 0)
    ended = watch(request.name, submission, _Reserve(request, module, config, folder, submitter).call_up)
    if module.prepare(config, run) is None and not finished(folder, ended.submission):
        error = first_error(folder, ended)
        print(f"mvdiff {request.name}: {error}", file=sys.stderr)
        return _print_answer(request, {**answer, "state": "failed", "error": error}, 1)
    return _finish(request, answer, module, config, folder.run)


def again_of(request: Request, module: Job, config: DictConfig, run: Run | None) -> Sequence[int]:
    """The workers that are wanted alone; none where all are, as when the work is divided in another way than before."""
    if run is None or request.again is None:
        return ()
    now = min(config.cluster.workers, module.useful_workers(config, run))
    return request.again.workers if request.again.of == now else ()


class _Reserve:
    """The workers that the queue had no room for; they are called up while there is something left to do."""

    def __init__(
        self, request: Request, module: Job, config: DictConfig, folder: JobFolder, submitter: Submitter
    ) -> None:
        self._request, self._module, self._config = request, module, config
        self._folder, self._submitter = folder, submitter

    def call_up(self, submission: Submission, alive: int) -> Submission:
        """``submission`` with as many more workers as are of use beside the ``alive`` ones and find room now."""
        module, config, folder = self._module, self._config, self._folder
        taken = len(submission.job_ids)
        if not claims_work(module) or taken >= config.cluster.workers or not self._submitter.has_room():
            return submission
        if module.prepare(config, folder.run) is not None:
            return submission
        wanted = min(config.cluster.workers - taken, module.useful_workers(config, folder.run) - alive)
        if wanted < 1:
            return submission
        try:
            more = self._submitter.submit(Task(folder.path), wanted, numbers=range(taken, taken + wanted), fewer=True)
        except RequestError:
            return submission
        grown = replace(submission, job_ids=[*submission.job_ids, *more.job_ids])
        folder.remember(grown)
        say(self._request, f"{self._request.name}: job {more.shown} joins, now that there is room for it")
        return grown


def submitter_of(request: Request, module: Job, config: DictConfig, folder: JobFolder, cluster: Cluster) -> Submitter:
    return Submitter(
        cluster,
        f"{folder.run.name}-{request.name}",
        folder.logs,
        folder.code,
        cluster.lead_s(warning_s(module, config, folder.run)),
        tries(module),
        lambda line: say(request, f"{request.name}: {line}"),
    )


def handed_over(
    submitter: Submitter,
    module: Job,
    folder: JobFolder,
    workers: int | None,
    again: Sequence[int],
    after: Sequence[Before] = (),
) -> Submission:
    """The job of ``folder`` in the queue, behind the jobs ``after``: of an array ``workers`` of them, or those that are
    wanted ``again``.

    Raises:
        RequestError: as ``Submitter.submit``; the folder is gone then.
    """
    try:
        if again:
            return submitter.submit(Task(folder.path), len(again), numbers=again, after=after)
        return submitter.submit(Task(folder.path), workers, fewer=claims_work(module), after=after)
    except RequestError:
        folder.discard()
        raise


def created(request: Request, module: Job, config: DictConfig, folder: JobFolder) -> JobFolder:
    """``folder``, made; or the next one where another command made it first and the work may be shared with that."""
    while True:
        try:
            folder.create(config, request.words, [(later.name, later.words) for later in request.then])
        except Taken:
            if not claims_work(module):
                raise
            folder = folder.run.next_job(request.name)
        else:
            return folder


def off_bad_nodes(
    request: Request, module: Job, config: DictConfig, folder: JobFolder, submitter: Submitter, workers: int | None
) -> Submitter:
    """One that keeps away from the nodes that the job calls bad, if SLURM would take the job without these."""
    bad = bad_nodes(module, config, folder.run)
    left_out = dispensable(submitter.cluster, bad) if bad else []
    if not left_out:
        return submitter
    cluster = replace(submitter.cluster, exclude=excluding(submitter.cluster, left_out))
    avoiding = submitter_of(request, module, config, folder, cluster)
    try:
        avoiding.check(workers)
    except RequestError:
        return submitter
    config.cluster.exclude = cluster.exclude
    say(request, f"{request.name}: left out: {', '.join(f'node {node} ({bad[node]})' for node in left_out)}")
    return avoiding


def run_of(config: DictConfig) -> Run | None:
    if config.run is None:
        if config.cluster.kind != "here":
            raise InputError("run is not set, and a queued job needs a run folder", "add run=NAME")
        return None
    return Run.named(str(config.runs), str(config.run))


def _tell_closed(request: Request, run: Run) -> None:
    """The group cannot come through a folder of runs that is closed to it."""
    above = run.path.parent
    if run.umask == SHARED and above.exists() and not above.stat().st_mode & stat.S_IXGRP:
        say(request, f"{request.name}: {short(above)} is closed to the group: chmod g+x {short(above)}")


def _work_here(
    request: Request, answer: dict[str, Any], module: Job, config: DictConfig, folder: JobFolder | None
) -> int:
    with redirect_stdout(sys.stderr if request.as_json else sys.stdout):
        if folder is None:
            module.work(config, Context(None, None, here(), 0, 1, lambda: False, None))
        else:
            folder = created(request, module, config, folder)
            with handlers_kept():
                Task(folder.path)(0)
    return _finish(request, answer, module, config, folder.run if folder else None)


def _finish(request: Request, answer: dict[str, Any], module: Job, config: DictConfig, run: Run | None) -> int:
    figures = module.figures(config, run)
    for name, value in figures.items():
        say(request, f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    return _print_answer(request, {**answer, **figures}, 0)


def _print_answer(request: Request, answer: dict[str, Any], status: int) -> int:
    if request.as_json:
        print(json.dumps(answer))
    return status


def say(request: Request, line: str) -> None:
    print(line, file=sys.stderr if request.as_json or request.dry_run else sys.stdout, flush=True)
