"""How the ranks of one start of a job find each other: rank 0 publishes an address and a port in a shared folder.

Every start gets a fresh port, and no node name has to resolve.
"""

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from slurm.place import Place


@dataclass(frozen=True)
class Rendezvous:
    """Where rank 0 listens."""

    address: str
    port: int
    listener: int | None
    """On rank 0 the descriptor of a socket that listens there already, so that nobody else can take the port; the
    caller owns it. None on the others."""


def meet(folder: Path, place: Place, timeout_s: float = 300.0) -> Rendezvous:
    """Publish (rank 0) or wait for (the others) the meeting point of this start of the job.

    Raises:
        TimeoutError: rank 0 published nothing within ``timeout_s``; another start may do better.
    """
    path = folder / f"rendezvous-{place.job_id}-{place.restart}.json"
    if place.first:
        address = _own_address() or place.address
        listener = socket.create_server((address, 0), backlog=place.world_size)
        port = listener.getsockname()[1]
        entry = {"address": address, "port": port}
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(entry))
        temporary.replace(path)
        return Rendezvous(address, port, listener.detach())
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = _read(path)
        if found:
            return Rendezvous(found["address"], found["port"], None)
        time.sleep(0.05)
    raise TimeoutError(
        f"rank 0 of job {place.job_id} did not appear within {timeout_s:.0f} s: "
        f"look at its log in {folder} and check that the nodes share this folder"
    )


def _own_address() -> str | None:
    """This node's address on the network that the job was told to use; None where it was told of none."""
    name = os.environ.get("GLOO_SOCKET_IFNAME")
    if not name:
        return None
    found = [one.address for one in psutil.net_if_addrs().get(name, []) if one.family is socket.AF_INET]
    return found[0] if found else None


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
