"""Which slice a worker works on next: any that nobody holds; of those that failed on this host, the last ones; when
all that is left is held by others, one of theirs once more, since whoever publishes first is as good."""

import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mvdiff.generate.lease import TWIN, Lease, LeaseBook
from mvdiff.generate.owner import Owner
from mvdiff.generate.plan import Plan
from mvdiff.generate.suspects import Suspects


@dataclass(frozen=True)
class Claim:
    """The right to work on slice ``number`` of the plan."""

    number: int
    lease: Lease
    failed_elsewhere: set[str]
    """Samples that failed on another host; one that fails here too is bad."""
    second_try: bool = False
    """They failed on this host, and there is no other one."""


class Claims:
    """The open slices of ``plan`` as the worker ``owner`` takes them.

    Args:
        lease_seconds: a holder that is silent this long has lost its slice.
        patience: seconds without a free slice after which one that is held is taken a second time.
        only_host: no worker runs on another host, so a sample that fails here twice is bad.
        on_published: told of every slice that is found published.
    """

    def __init__(
        self,
        plan: Plan,
        leases: LeaseBook,
        owner: Owner,
        *,
        lease_seconds: float,
        patience: float,
        only_host: bool,
        on_published: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._leases, self._owner = plan, leases, owner
        self._lease_seconds, self._patience, self._only_host = lease_seconds, patience, only_host
        self._on_published, self._clock = on_published, clock
        self._suspects = Suspects(plan.folder, owner)
        self._in_hand: set[str] = set()
        self._left: set[str] = set()
        """Slices that were left to whoever works on them a second time."""
        self._idle_since: float | None = None
        self._alone_since: float | None = None
        published = plan.published()
        # Each worker starts elsewhere in the plan, so that many of them starting at once do not queue for one name.
        self._open = deque((k, name) for k, name in enumerate(plan.sizes()) if name not in published)
        self._open.rotate(-random.Random(owner.worker).randrange(len(self._open) or 1))

    @property
    def finished(self) -> bool:
        """Whether every slice was seen published."""
        return not self._open

    @property
    def names(self) -> list[str]:
        """Names of the slices that are not known to be published."""
        return [name for _, name in self._open]

    def next(self) -> Claim | None:
        """The next slice to work on; None when there is none now. ``put_back`` it when it is no longer worked on."""
        claim = self._free()
        if claim is None and self._open and (others := [k for k in self._open if k[1] not in self._in_hand]):
            now = self._clock()
            self._idle_since = now if self._idle_since is None else self._idle_since
            claim = self._failed_here(others) or (
                self._twin(others) if now - self._idle_since >= self._patience else None
            )
        if claim is not None:
            self._idle_since = None
            self._in_hand.add(self._slice_of(claim))
        return claim

    def reopened(self) -> bool:
        """Whether slices that were seen published are there no more (taken back to be repaired, deleted): they are open
        again then."""
        published = self._plan.published()
        self._open.extend((k, name) for k, name in enumerate(self._plan.sizes()) if name not in published)
        return bool(self._open)

    def leave(self, claim: Claim) -> None:
        """Leave the slice of ``claim``, which has a twin, to that for as long as its holder lives."""
        self._left.add(self._slice_of(claim))

    def put_back(self, claim: Claim) -> None:
        """Nothing more is done about ``claim`` here."""
        self._in_hand.discard(self._slice_of(claim))

    def _slice_of(self, claim: Claim) -> str:
        return claim.lease.name.removesuffix(TWIN)

    def _free(self) -> Claim | None:
        suspects = self._suspects.slices()
        for _ in range(len(self._open)):
            number, name = self._open[0]
            if self._plan.is_published(name):
                self._open.popleft()
                self._on_published(name)
                continue
            elsewhere: set[str] | None = set()
            if name in suspects:
                elsewhere = self._failed_elsewhere(name)
            if name in self._in_hand or elsewhere is None or self._is_left(name):
                self._open.rotate(-1)
                continue
            lease = self._taken(name)
            if lease is not None and self._plan.is_published(name):
                lease.end("published")
                continue
            if lease is not None:
                return Claim(number, lease, elsewhere)
            self._open.rotate(-1)
        return None

    def _is_left(self, name: str) -> bool:
        if name not in self._left:
            return False
        twin = name + TWIN
        if self._leases.holder(twin) is not None and self._leases.silent_s(twin) < self._lease_seconds:
            return True
        self._left.discard(name)
        return False

    def _failed_elsewhere(self, name: str) -> set[str] | None:
        """The samples of a slice that failed on other hosts; None where all that failed did so on this one."""
        hosts = self._suspects.hosts(name)
        failed_here = hosts.pop(self._owner.host, None) is not None
        return _ids(hosts) or (None if failed_here else set())

    def _failed_here(self, others: list[tuple[int, str]]) -> Claim | None:
        """A slice whose suspects failed on this host, once no other host is there to try them."""
        suspects = self._suspects.slices()
        waiting = [(number, name) for number, name in others if name in suspects and not self._held(name)]
        if not waiting:
            return None
        if not self._only_host:
            if self._others_work():
                self._alone_since = None
                return None
            self._alone_since = self._clock() if self._alone_since is None else self._alone_since
            if self._clock() - self._alone_since < self._lease_seconds:
                return None
        for number, name in waiting:
            lease = self._taken(name)
            if lease is not None:
                return Claim(number, lease, _ids(self._suspects.hosts(name)), second_try=True)
        return None

    def _twin(self, others: list[tuple[int, str]]) -> Claim | None:
        suspects = self._suspects.slices()
        held = [
            (int(holder.get("done", 0)), number, name)
            for number, name in others
            if name not in suspects and (holder := self._leases.holder(name)) is not None
        ]
        # the one with the least rows first: its holder may not have begun, and then leaves it
        for _, number, name in sorted(held):
            lease = self._taken(name + TWIN)
            if lease is not None:
                return Claim(number, lease, set())
        return None

    def has_twin(self, claim: Claim) -> bool:
        """Whether somebody works on the slice of ``claim`` a second time."""
        name = claim.lease.name
        return not name.endswith(TWIN) and self._leases.holder(name + TWIN) is not None

    def _others_work(self) -> bool:
        """Whether a lease of another host is alive."""
        for _, name in self._open:
            for one in (name, name + TWIN):
                holder = self._leases.holder(one)
                elsewhere = holder is not None and holder.get("owner", {}).get("host") != self._owner.host
                if elsewhere and self._leases.silent_s(one) < self._lease_seconds:
                    return True
        return False

    def _held(self, name: str) -> bool:
        return self._leases.holder(name) is not None

    def _taken(self, name: str) -> Lease | None:
        # A disk that is full for a while: the next look may take it.
        with suppress(OSError):
            return self._leases.claim(name)
        return None


def _ids(hosts: dict[str, set[str]]) -> set[str]:
    """The samples that failed on any of ``hosts``."""
    return {sample_id for ids in hosts.values() for sample_id in ids}
