"""One SLURM command, and what kind of failure its words mean."""

import os
import re
import subprocess

from slurm.errors import Full, Refused, RequestError, Unanswered

_CLOCK = {"TZ": "UTC", "SLURM_TIME_FORMAT": "standard"}
_UNANSWERED = re.compile(
    "Unable to contact slurm controller|Socket timed out|Zero Bytes were transmitted|Connection (refused|reset)|"
    "Communication connection failure|Message (send|receive) failure|Unexpected message received|in standby mode"
)
_FULL = re.compile(
    "Resource temporarily unavailable|temporarily unable to accept job|job queue full|creation temporarily disabled"
)
# The sentence stands for limits on one job's size and time too, which a word before it names then.
_LIMIT = re.compile(r"SubmitJobs?\w*Limit|^(?!.*(Assoc|QOS)\w+Limit).*job submit limit")
_NO_CLUSTER = "fetch_config: DNS SRV lookup failed"
"""In what SLURM's commands say on a machine that has them and no configuration of a cluster."""
_UP = "see with sinfo whether slurmctld is up, then start again"


TIMEOUT_S = 30.0
"""SLURM's commands themselves ask a controller that is away again for about as long."""


def run(*command: str, timeout_s: float = TIMEOUT_S, utc: bool = True) -> str:
    """Standard output of a SLURM command.

    Args:
        utc: whether the command shall tell times in UTC; sbatch would hand that on to the job.

    Raises:
        RequestError: the command is missing or fails; as ``Unanswered``, ``Full`` or ``Refused`` where it is that.
    """
    environment = os.environ | _CLOCK if utc else os.environ
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
        )
    except (FileNotFoundError, PermissionError):
        raise RequestError(
            f"{command[0]} is not on this machine's PATH", "run on a login node, or add cluster=local"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unanswered(f"{command[0]} did not answer within {timeout_s:.0f} s", _UP) from None
    if result.returncode:
        raise failure(" ".join(command[:3]), " ".join((result.stderr or result.stdout).split()))
    return result.stdout


def failure(command: str, message: str) -> RequestError:
    """What ``message``, the one line with which ``command`` failed, means."""
    if _NO_CLUSTER in message:
        return RequestError(
            f"this machine belongs to no SLURM cluster ({command.split()[0]} finds no configuration)",
            "run on a login node, or add cluster=local",
        )
    what = f"{command} failed: {message}"
    if _LIMIT.search(message):
        return Refused(what, "wait until some of your jobs have ended (squeue --me), or ask for a higher limit")
    if _FULL.search(message):
        return Full(what, "start again when the queue is shorter")
    if _UNANSWERED.search(message):
        return Unanswered(what, _UP)
    return RequestError(what, "correct the request and submit again")


def reason(error: RequestError) -> str:
    """The end of a failed command's message, or the limit that it names."""
    limit = re.search(r"\b(Assoc|QOS)\w+Limit\b", error.what)
    return limit.group() if limit else error.what.rpartition("failed: ")[2].replace("allocation failure: ", "")
