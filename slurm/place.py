"""Where a process of a job stands: its rank, its job, and how often the job was started before."""

import os
from dataclasses import dataclass

import submitit

RESTART_COUNT = "MVDIFF_RESTART_COUNT"
"""Set by the controller of a local job for its processes: how often the job was started before."""


@dataclass(frozen=True)
class Place:
    """One process of a running job."""

    kind: str
    """local or slurm; here for a process that no queue started."""
    job_id: str
    """As the queue prints it; ARRAY_INDEX for a member of an array."""
    rank: int
    world_size: int
    local_rank: int
    node: str
    """Name of the node, as the queue knows it."""
    address: str
    """An address of the job's first node that the other nodes reach without resolving names."""
    restart: int
    """How often this job was started before."""

    @property
    def first(self) -> bool:
        """Whether this is the one process of the job that may act for all."""
        return self.rank == 0


def here() -> Place:
    """The place of the calling process, from the environment that submitit and SLURM set."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return Place("here", str(os.getpid()), 0, 1, 0, os.uname().nodename, "127.0.0.1", 0)
    environment = submitit.JobEnvironment()
    return Place(
        kind=environment.cluster,
        job_id=environment.job_id,
        rank=environment.global_rank,
        world_size=environment.num_tasks,
        local_rank=environment.local_rank,
        node=os.environ.get("SLURMD_NODENAME", os.uname().nodename),
        address=os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        restart=int(os.environ.get(RESTART_COUNT if environment.cluster == "local" else "SLURM_RESTART_COUNT", "0")),
    )
