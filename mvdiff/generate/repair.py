"""Take damaged slices of a result set back, so that workers make again what is bad in them, and nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path

from mvdiff.durable import sync_folder
from mvdiff.generate.attempt import DAMAGED, FOLDER
from mvdiff.generate.audit import Flawed
from mvdiff.generate.lease import LeaseBook
from mvdiff.generate.owner import Owner
from mvdiff.generate.status import LEASES
from mvdiff.shard import verify_shard


def take_back(folder: Path, flawed: Sequence[Flawed]) -> int:
    """Unpublish the slices ``flawed`` of the result set ``folder`` and keep their files for the good rows.

    Each becomes an attempt that ended early, which the next worker goes on with. Returns how many were taken back; one
    that somebody works on is left to them.
    """
    leases = LeaseBook(folder / LEASES, Owner.here("repair"), lease_seconds=math.inf)
    taken = 0
    for one in flawed:
        lease = leases.claim(one.name)
        if lease is None:
            continue
        if not one.path.exists() or (one.bad and not verify_shard(one.path)):
            # Another repair was faster.
            lease.end("released")
            continue
        attempt = folder / FOLDER / f"{one.name}.{lease.attempt}"
        attempt.mkdir(parents=True, exist_ok=True)
        one.path.rename(attempt / DAMAGED)
        sync_folder(attempt)
        sync_folder(folder)
        lease.end("released")
        taken += 1
    return taken
