"""Leases: at most one worker at a time is meant to work on a slice, on any number of nodes.

A lease is a file ``SLICE.ATTEMPT``. It is taken by giving a finished file that name by a hard link, which one caller
wins. Only its owner replaces it afterwards, with a higher sequence number at every heartbeat. No clocks are compared
between nodes: an observer finds a lease stale once its own monotonic clock has seen the same bytes for
``lease_seconds``. A slice is taken over by taking the next attempt's name, so two observers cannot both take it over,
and the earlier owner, should it come back, finds itself fenced.

Leases save work; they do not guard results. That two workers never publish the same slice rests on the hard link that
publishes it, so a lease that is read late (attribute caches of network file systems) costs time and nothing else.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mvdiff.durable import link_new
from mvdiff.generate.owner import Owner

State = Literal["held", "released", "published"]

FOLDER = "leases"
TWIN = "~"
"""Behind a slice's name: the second lease on it, for whoever has nothing else to do while the first one is held."""


class Lease:
    """The right to work on one slice, until the next attempt is taken."""

    def __init__(self, folder: Path, name: str, attempt: int, owner: Owner) -> None:
        self.name, self.attempt, self.owner = name, attempt, owner
        self.done = 0
        """Rows that the slice has so far; told with every heartbeat."""
        self._path = folder / f"{name}.{attempt}"
        self._next = folder / f"{name}.{attempt + 1}"
        self._sequence = 0

    def take(self) -> bool:
        """Create the lease's file; False when another worker was first."""
        temporary = self._write_aside("held")
        try:
            return link_new(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def beat(self) -> None:
        """Raise the sequence number; does nothing once the lease is lost."""
        if self.held() and self._path.exists():
            self._sequence += 1
            self._write_aside("held").replace(self._path)

    def held(self) -> bool:
        """Whether no later attempt has been taken."""
        return not self._next.exists()

    def end(self, state: Literal["released", "published"]) -> None:
        """Let others take the slice at once (``released``), or tell them that nothing is left to do.

        A lease that cannot be written (full disk, folder swept) is left to go stale.
        """
        with suppress(OSError):
            if self.held() and self._path.exists():
                self._write_aside(state).replace(self._path)

    def forget(self) -> None:
        """Delete the lease's file: its slice is published, and nobody asks for it any more."""
        with suppress(OSError):
            self._path.unlink()

    def _write_aside(self, state: State) -> Path:
        content = {
            "state": state, "attempt": self.attempt, "sequence": self._sequence, "done": self.done,
            "owner": self.owner.to_json(),
        }  # fmt: skip
        path = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            path.write_text(json.dumps(content) + "\n", encoding="utf-8")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path


class Heartbeat:
    """Keeps a lease alive from a thread of its own, from ``start`` to ``stop`` or while a block runs."""

    def __init__(self, lease: Lease, seconds: float) -> None:
        self._lease, self._seconds = lease, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{lease.name}", daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            # A full disk or a file server that is away for a while: the next beat may pass, and if none does, others
            # take the slice over.
            with suppress(OSError):
                self._lease.beat()

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class LeaseBook:
    """The leases in ``folder`` as one worker sees and takes them."""

    def __init__(
        self, folder: Path, owner: Owner, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._owner, self._lease_seconds, self._clock = folder, owner, lease_seconds, clock
        self._attempts: dict[str, int] = {}
        self._seen: dict[str, tuple[bytes, float]] = {}

    def claim(self, name: str) -> Lease | None:
        """Take the slice ``name`` if nobody holds it; the first look at somebody's lease starts its clock here."""
        attempt = self.latest(name)
        if attempt and not self._is_free(name, attempt):
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        lease = Lease(self._folder, name, attempt + 1, self._owner)
        if not lease.take():
            return None
        self._seen.pop(name, None)
        return lease

    def latest(self, name: str) -> int:
        """Number of the last attempt at the slice ``name``; 0 when there was none."""
        attempt = self._attempts.get(name, 0)
        while (self._folder / f"{name}.{attempt + 1}").exists():
            attempt += 1
        self._attempts[name] = attempt
        return attempt

    def holder(self, name: str) -> dict[str, Any] | None:
        """The fields of the lease under which somebody holds the slice ``name``, as far as one look can tell."""
        attempt = self.latest(name)
        content = parse(self._read(name, attempt)) if attempt else {}
        return content if content.get("state") == "held" and not self._is_dead(content) else None

    def silent_s(self, name: str) -> float:
        """Seconds that this observer has seen nothing new of the slice ``name``'s lease; the first look starts them."""
        raw, now = self._read(name, self.latest(name)), self._clock()
        before = self._seen.get(name)
        if before is None or before[0] != raw:
            self._seen[name] = (raw, now)
            return 0.0
        return now - before[1]

    def _is_dead(self, content: dict[str, Any]) -> bool:
        return self._owner.knows_dead(content.get("owner", {}))

    def _is_free(self, name: str, attempt: int) -> bool:
        content = parse(self._read(name, attempt))
        if content.get("state") == "released" or self._is_dead(content):
            return True
        return self.silent_s(name) >= self._lease_seconds

    def _read(self, name: str, attempt: int) -> bytes:
        try:
            return (self._folder / f"{name}.{attempt}").read_bytes()
        except OSError:
            return b""


def parse(raw: bytes) -> dict[str, Any]:
    """The fields of a lease's bytes; none for a lease torn by a power cut, which then goes stale by the clock."""
    try:
        content = json.loads(raw)
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    whole = isinstance(content.get("owner", {}), dict) and isinstance(content.get("done", 0), int)
    return content if whole else {}
