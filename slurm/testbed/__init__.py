"""A SLURM cluster of several virtual nodes on this one machine, from Debian's packages."""

from slurm.testbed.bed import Status, Testbed, default_folder
from slurm.testbed.nodes import NodeStatus

__all__ = ["NodeStatus", "Status", "Testbed", "default_folder"]
