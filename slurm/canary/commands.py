"""Which of SLURM's commands answer, on the login node and on the nodes of a job."""

import time

from slurm.canary.finding import CHANGE, NOTE, OK, Finding, some
from slurm.canary.report import Figures
from slurm.command import run
from slurm.errors import RequestError

_ASKED = {
    "squeue": ["squeue", "--noheader", "--me", "--format=%i"],
    "scontrol": ["scontrol", "show", "config"],
    "sacct": ["sacct", "--noheader", "--allocations", "--starttime=now-1minutes", "--format=JobID"],
}


def measure() -> Figures:
    """Ask each command something cheap: what it answered wrongly (null: nothing), and how long it took."""
    answers: Figures = {}
    for name, command in _ASKED.items():
        began = time.monotonic()
        try:
            run(*command)
            wrong = None
        except RequestError as error:
            wrong = error.what
        answers[name] = {"wrong": wrong, "seconds": time.monotonic() - began}
    return answers


def judge(login: Figures, reports: list[Figures]) -> list[Finding]:
    """What it means that a command does not answer.

    Args:
        login: the answers on the login node.
        reports: those of the nodes, each with its ``node``.
    """
    findings = []
    for name in ("squeue", "scontrol"):
        bad = ["the login node"] if login[name]["wrong"] else []
        needed = name == "scontrol" or bad
        bad += sorted({f"node {report['node']}" for report in reports if report[name]["wrong"]})
        first = login[name]["wrong"] or next((r[name]["wrong"] for r in reports if r[name]["wrong"]), None)
        if not bad:
            slowest = max(answers[name]["seconds"] for answers in (login, *reports))
            findings.append(Finding("commands", OK, f"{name} answers everywhere, in {slowest:.2f} s at most"))
        elif needed:
            why = "a job asks it to come back" if name == "scontrol" else "the state of jobs is read from it"
            findings.append(
                Finding(
                    "commands",
                    CHANGE,
                    f"{name} does not answer on {some(bad)} ({first}), and {why}",
                    "put SLURM's commands on the PATH there (cluster.modules=[slurm]), or ask the site",
                )
            )
        else:
            findings.append(Finding("commands", NOTE, f"{name} does not answer on {some(bad)}: no job needs it there"))
    wrong = login["sacct"]["wrong"]
    if wrong is None:
        findings.append(Finding("commands", OK, f"sacct answers here, in {login['sacct']['seconds']:.2f} s"))
    else:
        findings.append(
            Finding(
                "commands",
                NOTE,
                f"no accounting ({wrong}): states come from squeue, and a job that it has forgotten counts as ended",
            )
        )
    return findings
