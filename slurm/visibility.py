"""Whether the nodes of a cluster see a path."""

from collections.abc import Sequence
from pathlib import Path

from slurm.cluster import Cluster
from slurm.command import run

PATIENCE_S = 30
"""For a node to become free."""
_LOOK = 'for path; do [ -r "$path" ] || printf "%s\\0" "$path"; done'


def unseen(cluster: Cluster, paths: Sequence[Path]) -> list[Path]:
    """Those of ``paths`` that cannot be read on a node, looked at by a step of a second on one that is free.

    Raises:
        RequestError: no node is free, or SLURM refuses.
    """
    options = [f"--{name}={value}" for name, value in cluster.place.items()]
    found = run(
        "srun", "--quiet", "--nodes=1", "--ntasks=1", "--time=1", "--chdir=/", f"--immediate={PATIENCE_S}", *options,
        "sh", "-c", _LOOK, "sh", *map(str, paths),
        timeout_s=2 * PATIENCE_S,
    )  # fmt: skip
    return [Path(path) for path in found.split("\0") if path]
