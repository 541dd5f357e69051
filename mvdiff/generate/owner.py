"""Who holds a lease: one incarnation of one worker."""

import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mvdiff.process import started


@dataclass(frozen=True)
class Owner:
    """A worker's process, named so that another process on the same machine can tell that it is dead."""

    worker: str
    nonce: str
    """Differs between two incarnations of the same worker."""
    host: str
    machine: str
    """The running kernel and process id namespace: the same for two processes exactly when ``pid`` means the same."""
    pid: int
    started: int
    """The process's start in clock ticks since boot: a process id is used again, the pair is not."""

    @classmethod
    def here(cls, worker: str, host: str | None = None) -> Self:
        """This process as the worker called ``worker`` on ``host``, which is this machine's name by default."""
        pid = os.getpid()
        return cls(worker, secrets.token_hex(4), host or socket.gethostname(), _machine(), pid, started(pid))

    def to_json(self) -> dict[str, Any]:
        """The fields, for a lease."""
        return asdict(self)

    def knows_dead(self, other: dict[str, Any]) -> bool:
        """Whether the owner with the fields ``other`` is dead for certain; False for one on another machine."""
        if not self.machine or other.get("machine") != self.machine:
            return False
        pid = other.get("pid")
        return isinstance(pid, int) and started(pid) != other.get("started")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
