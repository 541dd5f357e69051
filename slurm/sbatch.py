"""Handing one batch script to sbatch."""

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slurm.command import run
from slurm.errors import RequestError, Unanswered
from slurm.patience import persevere

UNAVAILABLE = "node configuration is not available"
"""In what SLURM says where no node can run a job: because of what it asks for, or because nodes are away."""
ANSWER_S = 150.0
"""sbatch itself waits up to 120 s for room in a full queue."""


def try_out(script: str) -> None:
    """Have SLURM say whether it would take the batch script now, without queueing it.

    Raises:
        RequestError: it would not, or does not answer: of the kind that ``slurm.command.run`` raises.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as probe:
        probe.write(script)
        probe.flush()
        try:
            run("sbatch", "--test-only", probe.name)
        except RequestError as error:
            if UNAVAILABLE in error.what and _just_started():
                raise Unanswered("slurmctld does not know its nodes yet", "see sinfo, then start again") from None
            raise


@dataclass(frozen=True)
class Before:
    """Jobs that must have ended before another one begins. A requeued job keeps its id and has not ended."""

    job_ids: Sequence[str]
    well: bool
    """Whether each must have ended well, and the one behind them is cancelled where one has not; else any end will do.
    """


def following(befores: Sequence[Before]) -> list[str]:
    """Options of sbatch for a job that begins once all of ``befores`` have ended."""
    told = []
    for before in befores:
        roots = dict.fromkeys(id_.partition("_")[0] for id_ in before.job_ids)
        told.append(f"{'afterok' if before.well else 'afterany'}:{':'.join(roots)}")
    return [f"--dependency={','.join(told)}", "--kill-on-invalid-dep=yes"] if told else []


def hand_over(
    script: Path,
    tell: Callable[[str], None],
    unless: type[Unanswered] | None = None,
    options: Sequence[str] = (),
) -> str:
    """Queue the batch script ``script``, whose path no other job may bear, and return its job id.

    An sbatch that got no answer may have been heard all the same. So before it is sent again the queue is searched for
    the script, and does not get it twice. A job that is accepted later still is cancelled when it shows; one that never
    shows cannot work: the call it should run lies under the other job's id.

    Args:
        tell, unless: as for ``persevere``.
        options: further ones of sbatch.

    Raises:
        RequestError: as for ``persevere``.
    """
    attempts = 0

    def attempt() -> str:
        nonlocal attempts
        if attempts and (queued := _queued(script)):
            return queued[0]
        attempts += 1
        answer = run("sbatch", "--parsable", *options, str(script), timeout_s=ANSWER_S, utc=False)
        # Sites wrap sbatch in programs that print more.
        ids = re.findall(r"^(?:Submitted batch job )?(\d+)(?:;\S*)?$", answer, re.MULTILINE) or _queued(script)
        if not ids:
            raise RequestError(f"sbatch names no job in its answer {answer.strip()!r}", "see squeue --me")
        return ids[-1]

    job_id = persevere(attempt, tell, unless)
    if attempts > 1:
        with suppress(RequestError):
            cancel([id_ for id_ in _queued(script) if id_ != job_id])
    return job_id


def cancel(job_ids: list[str]) -> None:
    """Cancel jobs, whole arrays by the id before the _.

    Raises:
        RequestError: the queue does not do it.
    """
    if job_ids:
        run("scancel", *job_ids)


def _just_started() -> bool:
    """Whether slurmctld waits for nodes to report, as it does for a moment when it has come back."""
    return "unk" in run("sinfo", "--noheader", "--format=%t")


def _queued(script: Path) -> list[str]:
    """Ids of the jobs, ended ones of the last minutes included, that were made from the file ``script``."""
    lines = run("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%F|%o").splitlines()
    found = (line.split("|", 1) for line in lines if "|" in line)
    return sorted({job_id.strip() for job_id, command in found if command.strip() == str(script)}, key=int)
