"""Submit one job and, if asked, stay with it until it ends."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jobs.compose import composed, settings
from jobs.job import Context, Job, job, tries, warning_s
from jobs.runfolder import JobFolder, Run, short
from jobs.task import Task
from jobs.watch import finished, first_error, watch
from mvdiff.errors import InputError
from slurm.cluster import Cluster
from slurm.place import here
from slurm.stop import handlers_kept
from slurm.submission import Submitter


@dataclass(frozen=True)
class Request:
    """A job as it was asked for on the command line."""

    name: str
    words: Sequence[str]
    dry_run: bool = False
    wait: bool = False
    as_json: bool = False


def launch(request: Request) -> int:
    """Check, submit and perhaps wait; returns the exit status (0 done or queued, 1 the job failed).

    Raises:
        InputError, RequestError: the request was wrong; nothing was queued and no run folder was made.
    """
    os.umask(0o077)
    config = composed(request.name, request.words)
    cluster = settings(Cluster, config.cluster, "cluster")
    run = _run(config, cluster)
    module = job(request.name)
    answer: dict[str, Any] = {"job": request.name, "run": run.name if run else None, "state": "done"}
    workers = cluster.workers if module.ARRAY else None
    folder = run.next_job(request.name) if run else None
    submitter = None
    if folder:
        lead_s = cluster.lead_s(warning_s(module, config, run))
        name = f"{folder.run.name}-{request.name}"
        submitter = Submitter(cluster, name, folder.logs, folder.code, lead_s, tries(module))
    if submitter and (not request.dry_run or shutil.which("sbatch")):
        submitter.check(workers)
    module.check(config, run)
    if request.dry_run:
        script = submitter.script(workers) if submitter else OmegaConf.to_yaml(config)
        print(json.dumps({**answer, "state": "dry-run", "script": script}) if request.as_json else script.rstrip("\n"))
        return 0
    nothing_left = module.prepare(config, run)
    if nothing_left:
        _say(request, f"{request.name}: {nothing_left}")
        return _finish(request, answer, module, config, run)
    if cluster.kind == "here" or folder is None or submitter is None:
        return _work_here(request, answer, module, config, folder)
    if workers is not None:
        workers = config.cluster.workers = min(workers, module.useful_workers(config, folder.run))
    folder.create(config, request.words)
    submission = submitter.submit(Task(folder.path), workers)
    folder.remember(submission)
    where = "on this machine" if cluster.kind == "local" else "in the queue"
    _say(request, f"{request.name}: job {submission.shown} {where}, logs in {short(folder.logs)}")
    answer |= {"job_ids": submission.job_ids, "folder": str(folder.path)}
    if not request.wait:
        return _print_answer(request, {**answer, "state": "submitted"}, 0)
    watch(request.name, submission)
    if module.prepare(config, run) is None and not finished(folder, submission):
        error = first_error(folder, submission)
        print(f"mvdiff {request.name}: {error}", file=sys.stderr)
        return _print_answer(request, {**answer, "state": "failed", "error": error}, 1)
    return _finish(request, answer, module, config, folder.run)


def _run(config: DictConfig, cluster: Cluster) -> Run | None:
    if config.run is None:
        if cluster.kind != "here":
            raise InputError("run is not set, and a queued job needs a run folder", "add run=NAME")
        return None
    return Run.named(str(config.runs), str(config.run))


def _work_here(
    request: Request, answer: dict[str, Any], module: Job, config: DictConfig, folder: JobFolder | None
) -> int:
    with redirect_stdout(sys.stderr if request.as_json else sys.stdout):
        if folder is None:
            module.work(config, Context(None, None, here(), 0, 1, lambda: False, None))
        else:
            folder.create(config, request.words)
            with handlers_kept():
                Task(folder.path)(0)
    return _finish(request, answer, module, config, folder.run if folder else None)


def _finish(request: Request, answer: dict[str, Any], module: Job, config: DictConfig, run: Run | None) -> int:
    figures = module.figures(config, run)
    for name, value in figures.items():
        _say(request, f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    return _print_answer(request, {**answer, **figures}, 0)


def _print_answer(request: Request, answer: dict[str, Any], status: int) -> int:
    if request.as_json:
        print(json.dumps(answer))
    return status


def _say(request: Request, line: str) -> None:
    print(line, file=sys.stderr if request.as_json else sys.stdout, flush=True)
