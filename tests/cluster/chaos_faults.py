"""Everything that happens to workers on a cluster, each as one act that hits something or does nothing."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slurm.errors import RequestError
from tests.cluster.chaos_scene import Scene, Task, slice_of

FILLER = "filler"
FROZEN_S = 40.0
"""Longest that a worker stays frozen: others may have their hands full, or be gone."""


@dataclass(frozen=True)
class Hit:
    """What a fault hit."""

    target: str
    seen: str
    after_s: float = 0.0
    """When ``undo`` is due."""
    undo: Callable[[], str] | None = None
    """Ends a fault that lasts; what was seen then."""


Fault = Callable[[Scene, random.Random], Hit | None]
"""Strikes once. None: there was nothing to hit."""


def _signal(number: signal.Signals) -> Fault:
    def strike(scene: Scene, chance: random.Random) -> Hit | None:
        task = _one(scene, chance)
        if task is None:
            return None
        task.process.signal(number)
        return _hit(task)

    return strike


def freeze(scene: Scene, chance: random.Random) -> Hit | None:
    """Stop a worker until another one has its slice; then it goes on, a zombie that must be fenced.

    Mostly late: while there are slices that nobody has touched, workers do not come round to one that is held.
    """
    working = [task for task in scene.targets() if task.slices]
    early = len(scene.open_slices()) > len(scene.published())
    if not working or (early and chance.random() < 0.7):
        return None
    task = chance.choice(working)
    scene.frozen.add(task.process.pid)
    task.process.signal(signal.SIGSTOP)
    before = scene.attempts()

    def thaw() -> str:
        deadline = time.monotonic() + FROZEN_S
        while (seen := _became(scene, task, before)) == "nobody took it over" and time.monotonic() < deadline:
            time.sleep(0.1)
        alive = "alive" if task.process.alive() else "gone"
        task.process.signal(signal.SIGCONT)
        scene.frozen.discard(task.process.pid)
        return f"{alive}; {seen}"

    return Hit(f"{task.job} on {task.node}", task.stage, chance.uniform(6, 12), thaw)


def _became(scene: Scene, task: Task, before: dict[str, int]) -> str:
    now, published = scene.attempts(), scene.published()
    taken = [name for name in task.slices if now.get(name, 0) > before.get(name, 0)]
    done = [name for name in task.slices if slice_of(name) in published]
    return f"{', '.join(taken)} taken over, {', '.join(done)} published" if taken or done else "nobody took it over"


def crash(scene: Scene, chance: random.Random) -> Hit | None:
    """A power cut of a node on which workers run."""
    nodes = scene.nodes()
    if not nodes:
        return None
    node = chance.choice(nodes)
    victims = [task for task in scene.tasks() if task.node == node]
    scene.bed.crash_node(node)

    def recover() -> str:
        try:
            scene.bed.recover_node(node)
        except RequestError as error:
            # it runs, but what waits for it in the queue keeps it from looking ready
            return f"{scene.bed.nodes.state(node)}: {error}"
        return "back"

    return Hit(node, ", ".join(f"{task.job} {task.stage}" for task in victims), chance.uniform(2, 15), recover)


def preempt_node(scene: Scene, chance: random.Random) -> Hit | None:
    """A job of a higher partition takes the node of a worker."""
    nodes = scene.nodes()
    return _preempt(scene, [chance.choice(nodes)]) if nodes else None


def preempt_cluster(scene: Scene, chance: random.Random) -> Hit | None:
    """A job of a higher partition takes every node on which workers run."""
    nodes = scene.nodes()
    return _preempt(scene, nodes) if nodes else None


def _preempt(scene: Scene, nodes: list[str]) -> Hit:
    victims = [task for task in scene.tasks() if task.node in nodes]
    scene.ask(
        "sbatch", "--partition=high", f"--nodelist={','.join(nodes)}", "--exclusive", "--no-requeue",
        "--output=/dev/null", "--wrap=sleep 1",
    )  # fmt: skip
    return Hit(",".join(nodes), ", ".join(f"{task.job} {task.stage}" for task in victims))


def scancel(scene: Scene, chance: random.Random) -> Hit | None:
    """One member of an array is cancelled: that worker is gone for good."""
    task = _one(scene, chance)
    if task is None:
        return None
    scene.ask("scancel", task.job)
    return _hit(task)


def time_limit(scene: Scene, chance: random.Random) -> Hit | None:
    """A worker's time limit becomes a minute, from now on and whenever it comes back."""
    task = _one(scene, chance)
    if task is None:
        return None
    answer = scene.ask("scontrol", "update", f"JobId={task.job}", "TimeLimit=1")
    return None if answer.startswith("refused") else _hit(task)


def fill_disk(scene: Scene, chance: random.Random) -> Hit | None:
    """The file system of the run is full for a while."""
    if not scene.tasks():
        return None
    filler = scene.run.path / FILLER
    written = fill(filler)

    def free() -> str:
        filler.unlink()
        return f"{len(scene.tasks())} tasks, {len(scene.published())} slices"

    seen = f"{written / 1e6:.0f} MB, {len(scene.tasks())} tasks, {len(scene.published())} slices"
    return Hit(str(scene.run.path.name), seen, chance.uniform(2, 6), free)


def fill(filler: Path) -> int:
    """Write ``filler`` until its file system takes no more; how many bytes."""
    block = bytes(1 << 20)
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(block[:size])
            except OSError:
                continue
        return file.tell()


def ghost(scene: Scene, chance: random.Random) -> Hit | None:
    """A slice is leased by an owner on a host that does not exist, which never gives a sign of life."""
    left = scene.open_slices()
    # whoever publishes the last slice sweeps the leases: one that came then would be this tool's own litter
    if len(left) < 4 or not scene.leases().is_dir():
        return None
    name = chance.choice(left)
    owner = {"worker": "ghost", "nonce": f"{chance.getrandbits(32):08x}", "host": "nowhere",
             "machine": "no-such-boot/pid:[1]", "pid": os.getpid(), "started": 1}  # fmt: skip
    fenced = next((task.job for task in scene.tasks() if name in task.slices), None)
    number = scene.attempts().get(name, 0) + 1
    taken = scene.take_over(name, {"state": "held", "attempt": number, "sequence": 3, "owner": owner})
    return (
        None
        if taken is None
        else Hit(f"slice {name}", f"attempt {taken}, {f'fences {fenced}' if fenced else 'was free'}")
    )


def _one(scene: Scene, chance: random.Random) -> Task | None:
    """Any worker; three times in four one that holds a slice, if there is one."""
    tasks = scene.targets()
    working = [task for task in tasks if task.slices]
    chosen = working if working and chance.random() < 0.75 else tasks
    return chance.choice(chosen) if chosen else None


def _hit(task: Task) -> Hit:
    return Hit(f"{task.job} on {task.node}", task.stage)


FAULTS: dict[str, Fault] = {
    "kill -9": _signal(signal.SIGKILL),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGUSR2": _signal(signal.SIGUSR2),
    "freeze": freeze,
    "node crash": crash,
    "preempt node": preempt_node,
    "preempt cluster": preempt_cluster,
    "scancel": scancel,
    "time limit": time_limit,
    "full disk": fill_disk,
    "stale lease": ghost,
}


def schedule(chance: random.Random, count: int) -> list[str]:
    """``count`` kinds of faults, each kind before any comes again."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += chance.sample(sorted(FAULTS), len(FAULTS))
    return drawn[:count]
