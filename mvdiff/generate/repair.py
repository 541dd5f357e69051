"""Take damaged slices of a result set back, so that workers make again what is bad in them, and nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path

from mvdiff.durable import sync_folder
from mvdiff.generate import attempt, lease
from mvdiff.generate.audit import Flawed
from mvdiff.generate.lease import LeaseBook
from mvdiff.generate.owner import Owner
from mvdiff.shard import verify_shard


def take_back(folder: Path, flawed: Sequence[Flawed]) -> int:
    """Unpublish the slices ``flawed`` of the result set ``folder`` and keep their files for the good rows.

    Each becomes an attempt that ended early, which the next worker goes on with. Returns how many were taken back; one
    that somebody works on is left to them.
    """
    leases = LeaseBook(folder / lease.FOLDER, Owner.here("repair"), lease_seconds=math.inf)
    taken = 0
    for one in flawed:
        held = leases.claim(one.name)
        if held is None:
            continue
        if not one.path.exists() or (one.bad and not verify_shard(one.path)):
            # Another repair was faster.
            held.end("released")
            continue
        kept = folder / attempt.FOLDER / f"{one.name}.{held.attempt}"
        kept.mkdir(parents=True, exist_ok=True)
        one.path.rename(kept / attempt.DAMAGED)
        sync_folder(kept)
        sync_folder(folder)
        held.end("released")
        taken += 1
    return taken
