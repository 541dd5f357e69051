"""Handing calls to the queue: pickled by submitit, in as few arrays as SLURM takes."""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.local.local import LocalJob

from slurm.cluster import Cluster
from slurm.command import reason
from slurm.errors import Full, Refused, RequestError, Unanswered, refuse
from slurm.local import LocalExecutor
from slurm.offer import beyond
from slurm.patience import persevere
from slurm.queue import largest_array, nodes, partitions
from slurm.requeue import TRIES
from slurm.sbatch import UNAVAILABLE, Before, cancel, following, hand_over, try_out
from slurm.script import BatchScript
from slurm.submission import Submission

TIMEOUTS_ALLOWED = 10_000
"""submitit ends a job after so many time limits; how often a job may come back is decided elsewhere."""


class Submitter:
    """Turns calls into jobs on one cluster.

    Args:
        cluster, name, code, lead_s, tries: as for ``BatchScript``.
        logs: existing folder for submitit's files; writable by its owner alone, since what lies there is executed.
        tell: is given lines for the person who waits: what is asked again, what the queue did not take.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        logs: Path,
        code: Path,
        lead_s: int,
        tries: int | None = TRIES,
        tell: Callable[[str], None] = print,
    ) -> None:
        self._script = BatchScript(cluster, name, logs, code, lead_s, tries)
        self.cluster, self.name, self.logs, self.code = cluster, name, logs, code
        self._lead_s, self._tries, self._tell = lead_s, tries, tell
        self._largest: int | None = None
        self._after: list[str] = []
        self._tight = False
        """Whether the queue has refused an array for its size: then it is asked before each one is sent."""

    def script(self, workers: int | None) -> str:
        """The batch scripts that ``submit`` would hand to sbatch, one for each array, or the command of a local job.

        Known only after ``check``: how many members the cluster allows an array. Before, there is one.
        """
        if self.cluster.kind != "slurm":
            return f"{self._script.command}\n"
        if workers is None:
            return self._script.text(None)
        whole, rest = divmod(workers, self._largest or workers)
        return "\n".join(map(self._script.text, [self._largest or workers] * whole + [rest] * bool(rest)))

    def check(self, workers: int | None) -> None:
        """Ask SLURM whether it would take the job, or at least one of so many workers, without queueing it.

        Raises:
            RequestError: what SLURM refuses, and how to mend it.
        """
        if self.cluster.kind != "slurm":
            return
        if shutil.which("sbatch") is None:
            raise RequestError(
                "sbatch is not on this machine's PATH", "run on a login node of the cluster, or use cluster=local"
            )
        known = persevere(partitions, self._tell)
        for name in (self.cluster.partition or "").split(","):
            if name and name not in known:
                raise RequestError(
                    f"partition {name!r} does not exist on this cluster",
                    f"choose cluster.partition from {', '.join(known)}",
                )
        try:
            self._try_out_some(workers)
        except (Refused, Full) as error:
            raise _none_taken(error) from None
        except Unanswered:
            raise
        except RequestError as error:
            cluster = self.cluster
            impossible: list[RequestError] = []
            with suppress(RequestError):
                impossible += beyond(cluster)
            if impossible:
                refuse(impossible)
            if UNAVAILABLE in error.what and not all(nodes(cluster.partition).values()):
                # whoever may say whether it is the nodes that are away, or the request, is sbatch itself
                self._tell("SLURM names no node that could run this now, and some of the partition are down or drained")
                return
            raise RequestError(
                f"SLURM would not take this job ({reason(error)}), which asks for {cluster.time_min} min, "
                f"nodes: {cluster.nodes}, tasks a node: {cluster.tasks}, CPUs a task: {cluster.cpus}, "
                f"GPUs a node: {cluster.gpus_per_node}, memory: {' '.join(cluster.memory.values()) or 'not named'}",
                "change cluster.nodes, .gpus_per_node, .cpus_per_task, .memory_gb, .time_min, or another it names",
            ) from None

    def take_over(self, asked: "Submitter") -> Self:
        """Know what the ``check`` of ``asked`` has found out: a full queue keeps an sbatch that asks too much of it for
        two minutes."""
        self._largest, self._tight = asked._largest, asked._tight
        return self

    def has_room(self) -> bool:
        """Whether the queue would take one more worker now."""
        try:
            try_out(self._script.text(1))
        except RequestError:
            return False
        return True

    def submit(
        self,
        call: Callable[..., Any],
        workers: int | None,
        *,
        numbers: Sequence[int] | None = None,
        fewer: bool = False,
        after: Sequence[Before] = (),
    ) -> Submission:
        """Queue ``call()`` once, or ``call(i)`` for ``workers`` values of i.

        Workers become members of as few arrays as the queue takes (local: so many jobs). What a limit leaves no room
        for is told.

        Args:
            numbers: those values; 0, 1, ... where they are not given.
            fewer: whether fewer workers do the same work. If not, all are queued or none.
            after: jobs of SLURM that must have ended before.

        Raises:
            RequestError: the queue took nothing, or less than is of use; then nothing stays in it.
        """
        self._after = following(after)
        chosen = range(workers or 0) if numbers is None else numbers
        calls = [()] if workers is None else [(number,) for number in chosen]
        if self.cluster.kind == "local":
            job_ids = self._start_here(call, calls)
        else:
            with tempfile.TemporaryDirectory(prefix=".calls-", dir=self.logs) as folder:
                pickles = [self._pickled(Path(folder) / f"{k}.pkl", call, *given) for k, given in enumerate(calls)]
                job_ids = self._one(pickles) if workers is None else self._in_arrays(pickles, fewer)
        named = None if numbers is None else list(numbers)[: len(job_ids)]
        return Submission(self.cluster.kind, self.name, job_ids, str(self.logs), named)

    def _one(self, pickles: Sequence[Path]) -> list[str]:
        try:
            return self._hand_over(pickles, None, None)
        except RequestError as error:
            raise _none_taken(error) from None

    def _in_arrays(self, pickles: Sequence[Path], fewer: bool) -> list[str]:
        """Job ids of the workers, in their order; fewer than ``pickles`` only where that is of use.

        An array that is refused is tried with half as many members, down to one.
        """
        queued: list[str] = []
        refusal: RequestError | None = None
        size = min(len(pickles), self._array_limit())
        while size and len(queued) < len(pickles):
            size = min(size, len(pickles) - len(queued))
            # Room for a first worker is worth waiting for, room for more of them is not.
            unless = None if size == 1 and not queued else Full
            try:
                if self._tight:
                    self._try_out(size, unless)
                queued += self._hand_over(pickles[len(queued) :][:size], size, unless)
            except (Refused, Full) as error:
                refusal, self._tight, size = error, True, size // 2
            except RequestError as error:
                refusal, size = error, 0
        if len(queued) == len(pickles):
            return queued
        assert refusal is not None
        if not queued:
            raise _none_taken(refusal)
        taken = f"{len(queued)} of {len(pickles)} workers"
        if not fewer:
            cancel(sorted({id_.partition("_")[0] for id_ in queued}))
            raise RequestError(
                f"SLURM takes only {taken} now ({reason(refusal)}), and each has a share of its own",
                f"say cluster.workers={len(queued)}",
            )
        self._tell(
            f"the queue took {taken} ({reason(refusal)}): they do all of the work, and the same command again adds more"
        )
        return queued

    def _hand_over(self, pickles: Sequence[Path], members: int | None, unless: type[Unanswered] | None) -> list[str]:
        """Queue one job, or one array, whose members' calls lie in ``pickles``."""
        script = self.logs / f"{uuid.uuid4().hex}_submission.sh"
        script.write_text(self._script.text(members), encoding="utf-8")
        try:
            job_id = hand_over(script, self._tell, unless, self._after)
        except RequestError:
            script.unlink()
            raise
        job_ids = [job_id] if members is None else [f"{job_id}_{index}" for index in range(members)]
        for id_, pickle in zip(job_ids, pickles, strict=True):
            # The job waits a minute for it.
            pickle.rename(JobPaths(self.logs, id_).submitted_pickle)
        return job_ids

    def _try_out_some(self, workers: int | None) -> None:
        if workers is not None and workers > 1:
            try:
                return self._try_out(min(workers, self._array_limit()), Full)
            except (Refused, Full):
                self._tight = True
        return self._try_out(None if workers is None else 1)

    def _try_out(self, members: int | None, unless: type[Unanswered] | None = None) -> None:
        persevere(lambda: try_out(self._script.text(members)), self._tell, unless)

    def _array_limit(self) -> int:
        if self._largest is None:
            self._largest = persevere(largest_array, self._tell)
        return self._largest

    def _pickled(self, path: Path, call: Callable[..., Any], *given: int) -> Path:
        delayed = DelayedSubmission(call, *given)
        delayed.set_timeout(self.cluster.time_min, TIMEOUTS_ALLOWED)
        delayed.dump(path)
        return path

    def _start_here(self, call: Callable[..., Any], calls: Sequence[tuple[int, ...]]) -> list[str]:
        executor = LocalExecutor(self.logs, self._script.python, self.code, self._tries)
        executor.update_parameters(
            timeout_min=self.cluster.time_min,
            tasks_per_node=self.cluster.tasks,
            gpus_per_node=self.cluster.gpus_per_node,
            signal_delay_s=self._lead_s,
        )
        jobs = [executor.submit(call, *given) for given in calls]
        for job in jobs:
            assert isinstance(job, LocalJob)
            job._cancel_at_deletion = False
        return [job.job_id for job in jobs]


def _none_taken(refusal: RequestError) -> RequestError:
    if isinstance(refusal, Refused | Full):
        return RequestError(f"SLURM takes no more jobs of yours now ({reason(refusal)})", refusal.mend)
    return refusal
