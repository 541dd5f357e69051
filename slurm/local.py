"""Jobs without a queue: submitit's local executor, with a controller under which a job comes back as under SLURM.

submitit's own controller lets the other processes of a job run on when one has died, starts a job again only if a
process asks for it, and at most five times.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import JobPaths
from submitit.local import local

from slurm.place import RESTART_COUNT
from slurm.requeue import COMES_BACK, WAIT_FOR_END_S, unasked
from slurm.stop import WARNINGS
from slurm.words import CANCELLED, GAVE_UP, Words

_POLL_S = 0.05


class LocalExecutor(local.LocalExecutor):
    """submitit's, with ``Controller``.

    Args:
        folder: for submitit's files.
        python: the command that starts Python.
        code: folder from which the controller itself is imported.
        tries: as for ``slurm.requeue.unasked``.
    """

    def __init__(self, folder: Path, python: str, code: Path, tries: int | None) -> None:
        super().__init__(folder, python=python)
        self._code, self._tries = code, tries
        # submitit spares a queue by 0.2 s between jobs; here there is none to spare
        self._throttling = 0.0

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -m slurm.guard {shlex.quote(str(self.folder))}"

    def _submit_command(self, command: str) -> local.LocalJob:
        asked = self.parameters
        environment = os.environ | {
            "PYTHONPATH": str(self._code),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(asked["gpus_per_node"]))),
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_NTASKS": str(asked["tasks_per_node"]),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(asked["signal_delay_s"]),
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * asked["timeout_min"]),
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
        }
        tries = [] if self._tries is None else [str(self._tries)]
        controller = [sys.executable, "-P", "-m", "slurm.local", str(self.folder), *tries]
        # Ctrl-C in the terminal that waits for the job is not meant for it.
        process = subprocess.Popen(controller, env=environment, start_new_session=True)
        tasks = list(range(asked["tasks_per_node"]))
        return local.LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=tasks)


class Controller(local.Controller):
    """Starts the processes of one job until they are done, gave up, or have had their ``tries``."""

    def __init__(self, folder: Path, tries: int | None) -> None:
        super().__init__(folder)
        self.tries = tries

    def run(self) -> None:  # type: ignore[override]
        with JobPaths(self.folder, self.pid, 0).stdout.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        restart, again = 0, True
        while again:
            os.environ[RESTART_COUNT] = str(restart)
            try:
                self.start_tasks()
                codes = self.wait()
            finally:
                self.kill_tasks()
            words = Words(self.folder, self.pid, restart)
            if all(code == 0 for code in codes) or words.said(GAVE_UP) or words.said(CANCELLED, 0):
                return
            for rank, code in enumerate(codes):
                if code not in (None, 0, COMES_BACK):
                    print(f"rank {rank} {_ended(code)}", flush=True)
            again = COMES_BACK in codes or unasked(words, self.tries)
            if again:
                print("the job starts again", flush=True)
            restart += 1

    def wait(self) -> Sequence[int | None]:  # type: ignore[override]
        """Exit status of every process, None for one that still runs: because another one died, or time is up.

        A process that wants to come back gives the others the time to say so too.
        """
        began = time.monotonic()
        ends, warned = began + self.timeout_s, False
        while True:
            codes = [task.poll() for task in self.tasks]
            now = time.monotonic()
            if COMES_BACK in codes:
                ends = min(ends, now + WAIT_FOR_END_S)
            if None not in codes or set(codes) - {None, 0, COMES_BACK} or now > ends:
                return codes
            if not warned and now > began + self.timeout_s - self.signal_delay_s:
                self._forward_signal(WARNINGS[0])
                warned = True
            time.sleep(_POLL_S)


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with status {code}"


if __name__ == "__main__":
    Controller(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None).run()
