"""`mvdiff JOB ... then JOB ...`: several jobs in one command, each begun once the one before has done its work."""

import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.compose import composed, refuse_wrong
from jobs.job import Job, JobFailed, check_ahead, chosen, claims_work, job, share_of, unfinished
from jobs.launch import Request, again_of, created, handed_over, launch, off_bad_nodes, run_of, say, submitter_of
from jobs.preflight import Findings, look_around, tell_remarks
from jobs.runfolder import PRIVATE, JobFolder, Run, share, short
from jobs.watch import Ended, finished, first_error, watch
from mvdiff.errors import InputError
from slurm.cluster import Cluster
from slurm.errors import RequestError
from slurm.sbatch import Before, cancel, following
from slurm.submission import Submission
from slurm.submitter import Submitter


@dataclass(frozen=True)
class Ahead:
    """Jobs in the queue that are not of this chain, and which its first one follows."""

    folders: Sequence[JobFolder]
    """In the order in which they run."""
    after: Sequence[Before]
    """What waiting for all of them means."""


@dataclass(frozen=True)
class _Link:
    """One job of a chain, checked."""

    request: Request
    module: Job
    config: DictConfig
    cluster: Cluster
    run: Run
    ahead: int
    """How many jobs of the chain come before it in its run."""

    @property
    def workers(self) -> int | None:
        return self.cluster.workers if self.module.ARRAY else None

    def folder(self, ahead: int = 0) -> JobFolder:
        return self.run.next_job(self.request.name, ahead)

    def again(self) -> Sequence[int]:
        return again_of(self.request, self.module, self.config, self.run)

    def submitter(self, folder: JobFolder) -> Submitter:
        return submitter_of(self.request, self.module, self.config, folder, self.cluster)


@dataclass(frozen=True)
class _Queued:
    """One job of a chain, in the queue."""

    link: _Link
    folder: JobFolder
    submission: Submission
    after: Sequence[Before]
    """What it waits for."""

    def before(self) -> Ahead:
        """What the next one waits for."""
        return Ahead([self.folder], behind(self.link.module, self.submission.job_ids, self.after))


def chain(requests: Sequence[Request], ahead: Ahead | None = None) -> int:
    """Check all jobs, then queue all of them, and wait for the last if asked; returns the exit status.

    A job that finds nothing left to do is passed over. Where there is no queue, the jobs run one after the other.

    Args:
        ahead: what the first one is queued behind.

    Raises:
        InputError, RequestError: a request was wrong, or the queue takes one of the jobs not; then none stays in it.
        JobFailed: the outcome of one is bad.
    """
    os.umask(PRIVATE)
    findings = Findings()
    links = _links(requests, findings)
    slurm = links[0].cluster.kind == "slurm"
    queue_answers = slurm and (not requests[0].dry_run or shutil.which("sbatch") is not None)
    submitters = [link.submitter(link.folder(link.ahead)) for link in links]
    for link, submitter in zip(links, submitters, strict=True):
        if queue_answers:
            findings.look(partial(submitter.check, link.workers))
        if link is links[0] and not ahead:
            findings.look(partial(link.module.check, link.config, link.run))
        else:
            findings.look(partial(check_ahead, link.module, link.config, link.run, _coming(links, link, ahead)))
        look_around(
            findings, link.request.name, link.config, link.cluster, link.run, from_node=not link.request.dry_run
        )
    findings.refuse()
    for link in links if slurm else ():
        tell_remarks(link.request.name, link.config, link.cluster, link.run)
    if queue_answers and not ahead:
        first = links[0]
        submitters[0] = off_bad_nodes(
            first.request, first.module, first.config, first.folder(), submitters[0], first.workers
        )
    if requests[0].dry_run:
        return _shown(links, submitters, ahead)
    return _queue(links, submitters, ahead) if slurm else _one_after_the_other(requests)


def _links(requests: Sequence[Request], findings: Findings) -> list[_Link]:
    """The jobs asked for; what is wrong with their settings goes to ``findings``, and is raised where it is too much
    to look further."""
    links: list[_Link] = []
    for request in requests:
        if link := findings.look(partial(_link, request, findings, links)):
            links.append(link)
    if len(links) < len(requests):
        findings.refuse()
    return links


def _link(request: Request, findings: Findings, before: Sequence[_Link]) -> _Link:
    config = composed(request.name, request.words)
    findings.look(partial(refuse_wrong, config))
    cluster = share_of(job(request.name), config)
    if before and cluster.kind != before[0].cluster.kind:
        raise InputError(
            f"{request.name} would run with cluster.kind={cluster.kind}, the job before it with "
            f"{before[0].cluster.kind}",
            "say the same cluster= for every job of a chain",
        )
    if config.run is None:
        raise InputError(f"run is not set for {request.name}", "add run=NAME to every job of a chain")
    run = run_of(config)
    assert run is not None
    ahead = sum(link.run == run for link in before)
    return _Link(request, job(request.name), config, cluster, run, ahead)


def _coming(links: Sequence[_Link], of: _Link, ahead: Ahead | None) -> list[Path]:
    """Folders that the jobs before ``of`` write."""
    written = {"synth": "shards", "pack": "shards", "train": "checkpoints", "generate": "results", "evaluate": "report"}
    before = [(folder.run, folder.job) for folder in (ahead.folders if ahead else ())]
    before += [(link.run, link.request.name) for link in links[: links.index(of)]]
    return [getattr(run, written[name]) for run, name in before]


def _shown(links: Sequence[_Link], submitters: Sequence[Submitter], ahead: Ahead | None) -> int:
    jobs = []
    after = ahead.after if ahead else []
    for link, submitter in zip(links, submitters, strict=True):
        options = following(after)
        after = behind(link.module, [f"<{link.request.name}>"], after)
        slurm = link.cluster.kind == "slurm"
        script = submitter.script(len(link.again()) or link.workers)
        jobs.append(
            {"job": link.request.name, "run": link.run.name, "script": script} | ({"options": options} if slurm else {})
        )
        if not link.request.as_json:
            with_options = f" sbatch {' '.join(options)}" if options and slurm else ""
            print(f"# {link.request.name} of run {link.run.name}:{with_options}".rstrip(":"))
            print(jobs[-1]["script"])
    if links[0].request.as_json:
        print(json.dumps({"job": "chain", "state": "dry-run", "jobs": jobs}))
    return 0


def behind(module: Job, job_ids: Sequence[str], after: Sequence[Before]) -> list[Before]:
    """What whatever comes behind the jobs ``job_ids`` of ``module`` waits for, which themselves begin ``after`` others.

    Where workers share the work, one that fails leaves it to the others: the job behind begins after any end, and finds
    out on its node whether all is done. It is cancelled all the same where ``link`` itself can never begin.
    """
    if claims_work(module):
        return [*after, Before(job_ids, well=False)]
    return [Before(job_ids, well=True)]


def _queue(links: Sequence[_Link], submitters: Sequence[Submitter], ahead: Ahead | None) -> int:
    queued: list[_Queued] = []
    done: list[dict[str, Any]] = []
    try:
        for link, submitter in zip(links, submitters, strict=True):
            share(link.run, link.config.group_readable)
            if not queued and not ahead:
                if done:
                    link.module.check(link.config, link.run)
                nothing_left = link.module.prepare(link.config, link.run)
                if nothing_left:
                    say(link.request, f"{link.request.name}: {nothing_left}")
                    done.append({"job": link.request.name, "run": link.run.name, "state": "done"})
                    continue
            queued.append(_submitted(link, submitter, queued[-1].before() if queued else ahead))
    except (InputError, RequestError):
        cancel(sorted({id_.partition("_")[0] for one in queued for id_ in one.submission.job_ids}))
        for one in queued:
            one.folder.discard()
        raise
    answer: dict[str, Any] = {"job": "chain", "state": "submitted" if queued else "done"}
    answer["jobs"] = done + [_json(one, "submitted") for one in queued]
    if queued and links[0].request.wait:
        return _waited(queued, answer, done)
    return _answered(links[0].request, answer, 0)


def _submitted(link: _Link, asked: Submitter, before: Ahead | None) -> _Queued:
    workers = link.workers
    again = link.again()
    if workers is not None and before is None:
        workers = link.config.cluster.workers = min(workers, link.module.useful_workers(link.config, link.run))
    folder = created(link.request, link.module, link.config, link.folder())
    after = before.after if before else []
    if before:
        folder.follow(before.folders[-1:])
    submitter = submitter_of(link.request, link.module, link.config, folder, asked.cluster).take_over(asked)
    submission = handed_over(submitter, link.module, folder, workers, again, after)
    folder.remember(submission)
    last = before.folders[-1].submission() if before else None
    follows = f" after job {last.shown}" if last else ""
    say(
        link.request, f"{link.request.name}: job {submission.shown} in the queue{follows}, logs in {short(folder.logs)}"
    )
    return _Queued(link, folder, submission, after)


def _waited(queued: Sequence[_Queued], answer: dict[str, Any], done: Sequence[dict[str, Any]]) -> int:
    """Stay until the last job has ended, which is soon where one before it fails."""
    request = queued[0].link.request
    for one in queued:
        ended = watch(one.link.request.name, one.submission, lambda submission, alive: submission)
        if not _ended_well(one, ended):
            name = one.link.request.name
            error = f"{name}: {first_error(one.folder, ended)}"
            later = [late.link.request.name for late in queued[queued.index(one) + 1 :]]
            cannot = f"; {', '.join(later)} cannot begin" if later else ""
            print(f"mvdiff {error}{cannot}", file=sys.stderr)
            early = [_json(earlier, "done") for earlier in queued[: queued.index(one)]]
            cancelled = [_json(late, "cancelled") for late in queued[queued.index(one) + 1 :]]
            answer["jobs"] = [*done, *early, _json(one, "failed"), *cancelled]
            return _answered(request, {**answer, "state": "failed", "error": error}, 1)
    last = queued[-1]
    figures = last.link.module.figures(last.folder.config(), last.link.run)
    for key, value in figures.items():
        say(request, f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")
    answer["jobs"] = [*done, *(_json(one, "done") for one in queued)]
    return _answered(request, {**answer, "state": "done", **figures}, 0)


def _ended_well(one: _Queued, ended: Ended) -> bool:
    if claims_work(one.link.module):
        return unfinished(one.folder) is None
    return finished(one.folder, one.submission) or ended.words == {"COMPLETED"}


def _one_after_the_other(requests: Sequence[Request]) -> int:
    """Each job in turn, to its end."""
    answers: list[dict[str, Any]] = []
    for position, request in enumerate(requests):
        printed = io.StringIO()
        waiting = replace(request, wait=True, then=requests[position + 1 :])
        try:
            with redirect_stdout(printed if request.as_json else sys.stdout):
                status = launch(waiting)
        except JobFailed as error:
            print(f"mvdiff {request.name}: {error}", file=sys.stderr)
            status = 1
            printed = io.StringIO(json.dumps({"job": request.name, "state": "failed", "error": str(error)}))
        if request.as_json:
            answers.append(json.loads(printed.getvalue()))
        if status:
            later = [late.name for late in requests[position + 1 :]]
            if later:
                print(f"mvdiff: {', '.join(later)} not started, since {request.name} failed", file=sys.stderr)
            return _answered(request, {"job": "chain", "state": "failed", "jobs": answers}, status)
    return _answered(requests[0], {"job": "chain", "state": "done", "jobs": answers}, 0)


def _json(one: _Queued, state: str) -> dict[str, Any]:
    return {
        "job": one.link.request.name,
        "run": one.link.run.name,
        "state": state,
        "job_ids": one.submission.job_ids,
        "folder": str(one.folder.path),
        **chosen(one.link.module, one.folder.config()),
    }


def _answered(request: Request, answer: dict[str, Any], status: int) -> int:
    if request.as_json:
        print(json.dumps(answer))
    return status
