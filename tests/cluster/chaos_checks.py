"""What must hold of a generation once it is done, whatever happened to it."""

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvdiff import ShardDataset
from mvdiff.shard import ShardReader
from tests.cluster.chaos_lab import Lab

AGAIN_S = 2.0
TRIES = 3
UNFINISHED = ("leases", "attempts", "suspects")


def breaches(
    lab: Lab, name: str, again: Sequence[str], environment: Mapping[str, str], quarantined: Sequence[str] = ()
) -> list[str]:
    """One line for each promise that the run ``name`` breaks, held against the run ``calm``.

    Args:
        again: the command that made it, which must find nothing left to do.
        quarantined: ids that must be missing.
    """
    found = _samples(lab, name, quarantined)
    found += [] if quarantined else _bytes(lab.results("calm"), lab.results(name))
    found += [f"left over: {path}" for path in left_over(lab.results(name))]
    verified = lab.mvdiff("verify", str(lab.results(name)), environment=environment)
    if verified.returncode:
        found.append(f"mvdiff verify: {verified.stdout.strip()[-500:]} {verified.stderr.strip()[-500:]}")
    return found + nothing_to_do(lab, name, again, environment)[0]


def nothing_to_do(
    lab: Lab, name: str, again: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[str], list[float]]:
    """What is wrong with the same command after completion, and how long it took, but for the first time warm."""
    before, took, late = len(lab.run(name).jobs()), [], 0
    for _ in range(TRIES):
        running, began, computed = _running(), time.monotonic(), _computed()
        done = lab.mvdiff(*again, "--json", environment=environment)
        took.append(round(time.monotonic() - began, 2))
        running = max(running, _running())
        # where others want the processors too, each of them may come first
        allowed = AGAIN_S * (running if running > (os.cpu_count() or 1) else 1)
        late += took[-1] > allowed or _computed() - computed > AGAIN_S
        if done.returncode or "job_ids" in json.loads(done.stdout or "{}"):
            return [f"the same command again: exit {done.returncode}, {done.stdout}{done.stderr[-500:]}"], took
    found = []
    if len(lab.run(name).jobs()) != before:
        found.append("the same command again made a job's folder")
    if late == TRIES:
        found.append(f"the same command again took {min(took)} s at best, on an idle machine more than {AGAIN_S:g}")
    return found, took


def _running() -> int:
    """Processes of this machine that run or want to, at this moment."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])


def _computed() -> float:
    """Seconds of processors that ended children of this process have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _samples(lab: Lab, name: str, quarantined: Sequence[str]) -> list[str]:
    wanted = set(ShardDataset(lab.data).ids) - set(quarantined)
    there: Counter[str] = Counter()
    for path in sorted(lab.results(name).glob("slice-*.h5")):
        with ShardReader(path) as reader:
            there.update(reader.ids())
    found = [f"sample {sample_id} is missing" for sample_id in sorted(wanted - set(there))]
    found += [f"sample {sample_id} was not asked for" for sample_id in sorted(set(there) - wanted)]
    return found + [f"sample {sample_id} is there {count} times" for sample_id, count in there.items() if count > 1]


def _bytes(calm: Path, stormy: Path) -> list[str]:
    theirs, ours = ({path.name: path for path in folder.glob("slice-*.h5")} for folder in (calm, stormy))
    found = [f"{name} is published on one side only" for name in sorted(set(theirs) ^ set(ours))]
    both = sorted(set(theirs) & set(ours))
    return found + [f"{name} differs from the calm run's" for name in both if _read(theirs[name]) != _read(ours[name])]


def _read(path: Path) -> bytes:
    return path.read_bytes()


def left_over(results: Path) -> list[str]:
    """Files of the result set ``results`` that only unfinished work needs."""
    names = [path.relative_to(results) for path in sorted(results.rglob("*")) if path.is_file()]
    return [str(name) for name in names if name.parts[0] in UNFINISHED or _hidden(name)]


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)
