"""The Python that a process runs in, held against that of the others."""

import importlib
import sys
import time
from importlib import metadata

from slurm.canary.finding import CHANGE, NOTE, OK, Finding, some
from slurm.canary.report import Figures

SLOW_IMPORT_S = 60.0


def measure(heavy: str | None = None) -> Figures:
    """Interpreter and package versions of this process, and how long the package ``heavy`` takes to import (seconds).

    Args:
        heavy: not imported in this process before; None: nothing is imported.
    """
    figures: Figures = {
        "interpreter": sys.executable,
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {found.name: found.version for found in metadata.distributions() if found.name},
    }
    if heavy is not None:
        began = time.monotonic()
        try:
            importlib.import_module(heavy)
        except Exception as error:
            figures["import_error"] = f"{type(error).__name__}: {error}"
        figures["import_s"] = time.monotonic() - began
    return figures


def judge(login: Figures, reports: list[Figures], heavy: str) -> list[Finding]:
    """Where the nodes' Python differs from the login node's, and how long ``heavy`` took to import."""
    findings = []
    for report in reports:
        differences = [
            f"{key} {report[key]} instead of {login[key]}"
            for key in ("interpreter", "python")
            if report[key] != login[key]
        ]
        names = sorted(set(login["packages"]) | set(report["packages"]))
        differences += [
            f"{name} {report['packages'].get(name, 'missing')} instead of {login['packages'].get(name, 'none')}"
            for name in names
            if report["packages"].get(name) != login["packages"].get(name)
        ]
        if differences:
            findings.append(
                Finding(
                    "environment",
                    CHANGE,
                    f"node {report['node']} runs another Python: {some(differences)}",
                    "install mvdiff into a virtual environment that all nodes share, and start it from there",
                )
            )
    if not findings:
        where = f"all {len(reports)} ranks" if len(reports) > 1 else "the one rank"
        findings.append(
            Finding(
                "environment",
                OK,
                f"Python {login['python']} and its {len(login['packages'])} packages are the same in {where}",
            )
        )
    for report in reports:
        if "import_error" in report:
            findings.append(
                Finding(
                    "environment",
                    CHANGE,
                    f"{heavy} cannot be imported on node {report['node']} ({report['import_error']})",
                    "install the build that fits the nodes' driver, or name its module in cluster.modules",
                )
            )
            return findings
    slowest = max(report["import_s"] for report in reports)
    said = f"{heavy} takes {slowest:.1f} s to import at the slowest rank"
    if slowest < SLOW_IMPORT_S:
        findings.append(Finding("environment", OK, said))
    else:
        findings.append(
            Finding("environment", NOTE, f"{said}: every start of a job pays it; local disks or a container are faster")
        )
    return findings
