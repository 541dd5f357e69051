"""A storm of faults over one generation: `python -m tests.cluster.chaos --seed 1 --samples 2000 --faults 60`.

Generates a small data set twice: once with one worker and nobody in the way, once on a testbed while a schedule drawn
from the seed deals out faults. Both must end with the same files. Exit status 1 and one line for each breach.
"""

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mvdiff.events import read_events
from slurm.testbed import Testbed
from tests.cluster.chaos_checks import breaches
from tests.cluster.chaos_faults import FAULTS, FILLER, Hit, schedule
from tests.cluster.chaos_lab import Lab
from tests.cluster.chaos_scene import NAME, Scene

DISK_BYTES = 192 << 20
STALL_S = 180.0
PACE = 0.85
"""By this share of the work the last fault has struck: later there may be nobody left to hit."""
GAP_S = 0.7


@dataclass
class Outcome:
    """What a storm did, and what it broke."""

    seed: int
    breaches: list[str] = field(default_factory=list)
    dealt: Counter[str] = field(default_factory=Counter)
    submissions: int = 0
    starts: int = 0
    returns: int = 0
    """Starts of a job that had started before."""
    ended: Counter[str] = field(default_factory=Counter)
    """The last words of starts."""
    taken_over: int = 0
    """Attempts at slices after the first ones."""
    lost: int = 0
    """Slices that a worker found to be another's by the time it came to publish them."""
    calm_s: float = 0.0
    stormy_s: float = 0.0

    def table(self) -> str:
        rows = [("seed", str(self.seed)), *((f"fault: {kind}", str(self.dealt[kind])) for kind in FAULTS)]
        rows += [
            ("faults in all", str(self.dealt.total())),
            ("times the command was given", str(self.submissions)),
            ("starts of workers", f"{self.starts}, {self.returns} of them returns"),
            ("how starts ended", ", ".join(f"{kind} {count}" for kind, count in sorted(self.ended.items()))),
            ("slices attempted again", str(self.taken_over)),
            ("slices lost to another worker", str(self.lost)),
            ("calm", f"{self.calm_s:.1f} s"),
            ("stormy", f"{self.stormy_s:.1f} s, {self.stormy_s / self.calm_s:.1f} times as long"),
            ("breaches", str(len(self.breaches))),
        ]
        return "\n".join(f"{name:<32}{value}" for name, value in rows)


class Storm:
    """Deals faults to the run ``storm`` until it is done.

    A fault is due by progress, not by the clock: a fast machine and a slow one get all of them while there is work.
    """

    def __init__(self, lab: Lab, bed: Testbed, seed: int, faults: int, workers: int, log: Path) -> None:
        self._bed, self._lab, self._scene, self._log = bed, lab, Scene(lab, bed), log
        self._chance = random.Random(seed)
        self._kinds = schedule(self._chance, faults)
        self._due = sorted(PACE * (k + self._chance.random()) / max(faults, 1) for k in range(faults))
        self._workers = workers
        self._timers: list[threading.Timer] = []
        self._lock = threading.Lock()
        self._attempts: Counter[str] = Counter()
        self.outcome = Outcome(seed)

    @property
    def words(self) -> list[str]:
        """The command that whoever looks after the run gives, again and again."""
        return self._lab.words(
            NAME, "cluster=slurm", "cluster.partition=low", "cluster.cpus_per_task=1", "cluster.gpus_per_node=1",
            f"cluster.workers={self._workers}",
        )  # fmt: skip

    def blow(self) -> Outcome:
        """From the first command to the last worker's end; the run's files are judged after that."""
        began = time.monotonic()
        self._submit()
        if self.outcome.breaches:
            return self.outcome
        try:
            self._deal()
            self.outcome.stormy_s = time.monotonic() - began
        finally:
            for timer in self._timers:
                timer.join()
        self._drain()
        self._count()
        return self.outcome

    def _deal(self) -> None:
        total = len(self._scene.open_slices())
        newest, looked_at = time.monotonic(), 0.0
        struck, published = 0.0, -1
        while left := self._scene.open_slices():
            now = time.monotonic()
            self._attempts |= Counter(self._scene.attempts())
            if total - len(left) != published:
                published, newest = total - len(left), now
            if now - newest > STALL_S:
                queue = self._scene.queue()
                self.outcome.breaches.append(f"nothing was published for {STALL_S:g} s, {len(left)} left, {queue}")
                return
            if self._kinds and now - struck > GAP_S and published >= self._due[0] * total:
                self._strike()
                struck = time.monotonic()
            if now - looked_at > 2:
                self._look_after(len(left))
                looked_at = time.monotonic()
            time.sleep(0.1)
        if self._kinds:
            self.outcome.breaches.append(f"{len(self._kinds)} faults hit nothing: {', '.join(self._kinds)}")

    def _strike(self) -> None:
        for k, kind in enumerate(self._kinds):
            if kind == "full disk" and self._disk_is_full():
                continue
            hit = FAULTS[kind](self._scene, self._chance)
            if hit is None:
                continue
            self._kinds.pop(k)
            self._due.pop(0)
            self.outcome.dealt[kind] += 1
            self._tell(kind, hit.target, hit.seen)
            if hit.undo:
                timer = threading.Timer(hit.after_s, self._undo, (kind, hit))
                self._timers.append(timer)
                timer.start()
            return

    def _undo(self, kind: str, hit: Hit) -> None:
        assert hit.undo
        try:
            self._tell(f"end of {kind}", hit.target, hit.undo())
        except Exception as error:
            self.outcome.breaches.append(f"the end of {kind} on {hit.target} failed: {error}")

    def _look_after(self, left: int) -> None:
        """Give the command again when few workers are left, as a person would."""
        live = [job for job, state in self._scene.queue().items() if state != "HELD"]
        if len(live) >= min(self._workers / 2, left) or self._disk_is_full():
            return
        self._tell("few workers left", f"{len(live)} of {self._workers}", f"{left} slices left")
        # one submission whose time limit is far too short
        self._submit(*(["cluster.time_min=1", "cluster.signal_lead_s=5"] if self.outcome.submissions == 1 else []))

    def _submit(self, *more: str) -> None:
        self.outcome.submissions += 1
        done = self._lab.mvdiff(*self.words, *more, environment=self._bed.environment())
        self._tell("command", " ".join(more) or "as before", (done.stdout + done.stderr).strip().replace("\n", "; "))
        if done.returncode:
            self.outcome.breaches.append(f"the command ended with {done.returncode}: {done.stderr.strip()[-500:]}")

    def _drain(self) -> None:
        """Wait until every worker has found out that nothing is left."""
        deadline = time.monotonic() + STALL_S
        while queue := self._scene.queue():
            held = [job for job, state in queue.items() if state == "HELD"]
            if held or time.monotonic() > deadline:
                what = "the queue holds back for good" if held else f"after {STALL_S:g} s there are still"
                self.outcome.breaches.append(f"{what}: {queue}")
                self._scene.ask("scancel", *queue)
                return
            time.sleep(0.3)

    def _disk_is_full(self) -> bool:
        return (self._scene.run.path / FILLER).exists()

    def _tell(self, kind: str, target: str, seen: str) -> None:
        line = {"time": round(time.time(), 2), "kind": kind, "target": target, "seen": seen}
        with self._lock, self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _count(self) -> None:
        out = self.outcome
        last: dict[tuple[str, int], str] = {}
        newest: Counter[str] = Counter()
        for folder in self._scene.run.jobs():
            for event in sorted(read_events(folder.events), key=lambda event: event["time"]):
                job = event.get("job_id", "")
                if event["kind"] == "task started":
                    out.starts += 1
                    out.returns += event["restart"] > 0
                    newest[job] = event["restart"]
                    last[job, newest[job]] = "without a word"
                elif event["kind"] in ("task finished", "task stopped", "task failed", "task overdue"):
                    word = f" ({_without_paths(event['error'])})" if event["kind"] == "task failed" else ""
                    last[job, newest[job]] = event["kind"] + word
                elif event["kind"] == "slice_lost":
                    out.lost += 1
        out.ended = Counter(last.values())
        out.taken_over = sum(number - 1 for number in self._attempts.values())


def storm(folder: Path, bed: Testbed, seed: int, samples: int, workers: int, faults: int) -> Outcome:
    """Everything on a testbed that is up: lab, calm run, storm, judgement. Needs an empty ``folder``, and root.

    ``folder`` then holds ``chaos.jsonl`` with every fault, and the runs ``lab``, ``calm`` and ``storm``.
    """
    lab = Lab.make(folder, samples)
    calm_s = lab.calm()
    disk = lab.run(NAME).path
    weather = Storm(lab, bed, seed, faults, workers, folder / "chaos.jsonl")
    with Disk(disk):
        outcome = weather.blow()
        outcome.calm_s = calm_s
        if lab.run(NAME).results.exists():
            outcome.breaches += breaches(lab, NAME, weather.words, bed.environment())
    return outcome


class Disk:
    """A small file system of its own at ``path`` while the block runs; its files stay there if that ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._path.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(self._path))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        aside = self._path.with_name(f"{self._path.name}.aside")
        if kind is None:
            shutil.copytree(self._path, aside, ignore=shutil.ignore_patterns("code", FILLER))
        # workers that an error of this tool has left behind may still write
        _run("umount", "--lazy", str(self._path))
        self._path.rmdir()
        if kind is None:
            aside.rename(self._path)


def _without_paths(error: str) -> str:
    return re.sub(r"\S*/\S*", "FILE", error)[:120]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main(arguments: list[str] | None = None) -> int:
    """The tool as a command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__)
    for name, default in (("seed", 0), ("samples", 300), ("workers", 8), ("nodes", 4), ("faults", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--keep", type=Path, help="a new folder for data, runs and the log of faults; else removed")
    asked = parser.parse_args(arguments)
    Testbed.check()
    # a testbed that outlives the tool would run for ever
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    bed = Testbed(folder / "bed")
    place = asked.keep or folder / "lab"
    try:
        # a node has room for its share of the workers, so that one preempted node costs that share
        bed.up(nodes=asked.nodes, gpus=-(-asked.workers // asked.nodes), grace_seconds=4)
        outcome = storm(place.absolute(), bed, asked.seed, asked.samples, asked.workers, asked.faults)
    finally:
        bed.down()
        shutil.rmtree(folder, ignore_errors=True)
    print(outcome.table())
    for breach in outcome.breaches:
        print(f"BREACH {breach}", file=sys.stderr)
    return 1 if outcome.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
