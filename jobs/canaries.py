"""`mvdiff doctor cluster=SITE`: canaries on a user's own cluster, and what they show."""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs import manual, sites
from jobs.aviary import PARTS, Aviary
from jobs.compose import composed, settings
from jobs.runfolder import short
from mvdiff.errors import InputError, counted
from slurm.canary.finding import CHANGE, Finding
from slurm.cluster import Cluster

HELP = """\
mvdiff doctor cluster=SITE: what a cluster does to jobs, seen by small jobs of our own

usage: mvdiff doctor cluster=SITE [key=value ...] [--json]

Sends canaries, jobs of 1 to 15 minutes, to the cluster that cluster=SITE means, the same way as
every job: same options, environment and signals. They show whether the warning signal comes, in every rank, and when;
whether a job comes back; preemption; arrays; SLURM's commands, Python, GPUs, clocks and the shared folder on the nodes;
and how fast nodes exchange gradients. One line a finding says that it is well or what to change; all of them, and the
keys that follow from them, are written into the site's file where it is your own. Interrupted, or with canaries that
still wait in the queue, the same command goes on with those sent. Without cluster=, or with model= and what belongs to
it, mvdiff doctor tells a model's memory instead: mvdiff doctor --help.

keys
{keys}

options
  --json      print one JSON object on standard output and nothing else there

examples
  mvdiff doctor cluster=mysite
  mvdiff doctor cluster=mysite parts=[signal,requeue] wait_min=60
  mvdiff doctor cluster=mysite cluster.partition=low preempted_by=high folders=[/scratch/lab]

exit status
  0 all is well, 1 something should be changed or is not known yet, 2 the request was wrong (one line says what)"""


def page() -> str:
    """What ``mvdiff doctor cluster=SITE --help`` prints."""
    return HELP.format(keys="\n".join(manual.own_keys("canaries")))


def canaries(words: Sequence[str], as_json: bool) -> int:
    """Send canaries, or look after those sent before, and tell what they show; returns the exit status.

    Raises:
        InputError, RequestError: the request was wrong, or the queue takes nothing.
    """
    os.umask(0o077)
    config = composed("canaries", words)
    cluster = settings(Cluster, config.cluster, "cluster")
    site = next(word.partition("=")[2] for word in reversed(words) if word.startswith("cluster="))
    if cluster.kind != "slurm":
        raise InputError(f"cluster={site} is of kind {cluster.kind!r}", "name one of kind slurm")
    config.parts = _parts(config.parts)
    _refuse_values(config)
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        aviary = Aviary.of(config, cluster, words, lambda line: print(f"doctor: {line}", flush=True))
        findings, waiting = aviary.watch(_print)
    said = written(site, words, findings) if config.write else "nothing written: write=false"
    status = 1 if waiting or any(finding.level == CHANGE for finding in findings) else 0
    answer: dict[str, Any] = {"job": "doctor", "state": "waiting" if waiting else "done", "cluster": site}
    answer |= {"findings": [asdict(finding) for finding in findings], "waiting": waiting, "folder": str(aviary.path)}
    answer |= {"written": said}
    if as_json:
        print(json.dumps({**answer, "reports": aviary.figures()}))
        return status
    print(said)
    if waiting:
        print("not known yet: " + ", ".join(f"{part} ({why})" for part, why in waiting.items()))
        print("the same command looks again")
    print(f"what the canaries saw: {short(aviary.path / 'reports')}")
    return status


def _parts(asked: Any) -> list[str]:
    names = list(PARTS) if asked == "all" else [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in PARTS:
            raise InputError(f"parts: {name!r} is no part", f"choose from {', '.join(PARTS)}")
    if not names:
        raise InputError("parts=[] leaves nothing to do", f"choose from {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def _refuse_values(config: Any) -> None:
    for key, least in (("nodes", 1), ("wait_min", 0)):
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise InputError(f"{key}={value} cannot be", f"give a number of at least {least}")
    for key in ("resume", "write"):
        if not isinstance(config[key], bool):
            raise InputError(f"{key}={config[key]} cannot be", "give true or false")
    if isinstance(config.folders, str):
        config.folders = [config.folders]
    config.nodes = int(config.nodes)
    config.folders = [str(Path(str(folder)).expanduser().absolute()) for folder in config.folders]


def written(site: str, words: Sequence[str], findings: list[Finding]) -> str:
    """Put what was found into the site's file; the line that says so, or why not."""
    file = sites.own().get(site)
    if file is None:
        return f"nothing written: cluster={site} is shipped, and mvdiff cluster new SITE makes a file of your own"
    if changed := [word for word in words if word.startswith("cluster.")]:
        return f"nothing written to {short(file)}, which is not what was tried: {' '.join(changed)}"
    if not findings:
        return f"nothing learned for {short(file)} yet"
    changes = {key: value for finding in findings for key, value in finding.learned.items()}
    day = time.strftime("%Y-%m-%d")
    learned = {one.part: [f"{finding} ({day})" for finding in findings if finding.part == one.part] for one in findings}
    sites.update(file, changes, learned)
    keys = "".join(f", {key}: {value}" for key, value in changes.items())
    return f"written to {short(file)}: {counted(len(findings), 'finding')}{keys}"


def _print(finding: Finding) -> None:
    print(f"{finding.level:<7}{finding.part:<12}{finding.what}", flush=True)
    if finding.mend:
        print(f"{'':<19}{finding.mend}", flush=True)
