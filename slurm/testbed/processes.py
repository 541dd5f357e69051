"""Processes of a testbed, found by marks in their environment: a pid that was given to somebody else has none."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "MVDIFF_TESTBED"
"""In the environment of every daemon: the folder of its testbed."""
ROLE = "MVDIFF_TESTBED_ROLE"
"""In the environment of every daemon: what it is, such as ``slurmd-n1``."""


@dataclass(frozen=True)
class Process:
    """A process as it was when /proc was read."""

    pid: int
    parent: int
    started: int
    """Clock ticks since boot: with the pid, what tells a process from a later one of the same number."""
    command: str
    executable: str
    """The file it runs; empty when the kernel does not tell."""
    environment: dict[str, str]

    def alive(self) -> bool:
        """Whether this very process still runs."""
        now = _read(self.pid)
        return now is not None and now.started == self.started

    def gone(self, seconds: float) -> bool:
        """Wait until this process has ended; False when it has not after ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def signal(self, number: int) -> None:
        """Send signal ``number``, unless the process is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Checked while the handle holds the number: what is signalled is what was found.
            if self.alive():
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)


def processes() -> Iterator[Process]:
    """Every process of the machine that this user may look into, zombies left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            process = _read(int(entry.name))
            if process is not None:
                yield process


def with_descendants(roots: Iterable[Process], everything: Iterable[Process]) -> list[Process]:
    """``roots`` and all that descends from them, each once."""
    children: dict[int, list[Process]] = {}
    for process in everything:
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    waiting = list(roots)
    while waiting:
        process = waiting.pop()
        if process.pid not in found:
            found[process.pid] = process
            waiting += children.get(process.pid, [])
    return list(found.values())


def marked(folder: str) -> list[Process]:
    """The daemons of the testbed in ``folder``, and all that descends from them."""
    everything = list(processes())
    return with_descendants((one for one in everything if one.environment.get(MARK) == folder), everything)


def kill_until_gone(find: Callable[[], list[Process]], seconds: float) -> list[Process]:
    """Kill -9 what ``find`` returns until it finds nothing any more; what is left after ``seconds`` is returned.

    Looking again matters: a daemon may have forked between the look and the kill, and a process in the middle of an
    exec shows no environment.
    """
    deadline = time.monotonic() + seconds
    looks_in_vain = 0
    while looks_in_vain < 2:
        found = find()
        if found and time.monotonic() > deadline:
            return found
        for process in found:
            process.signal(signal.SIGKILL)
        looks_in_vain = 0 if found else looks_in_vain + 1
        time.sleep(0.02)
    return []


def _read(pid: int) -> Process | None:
    folder = Path("/proc") / str(pid)
    try:
        # The command name, in parentheses, may itself hold spaces and parentheses.
        fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        state, parent, started = fields[0], int(fields[1]), int(fields[19])
        if state in "ZX":
            return None
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        pairs = (folder / "environ").read_bytes().decode(errors="surrogateescape").split("\0")
    except (OSError, ValueError, IndexError):
        return None
    try:
        executable = str((folder / "exe").readlink())
    except OSError:
        executable = ""
    environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return Process(pid, parent, started, command, executable, environment)
