"""Clusters as tests ask for them."""

from pathlib import Path
from typing import Any

import yaml

import configs
from slurm.cluster import Cluster

_SHIPPED = Path(configs.__file__).parent / "cluster"


def site(**changes: Any) -> Cluster:
    """The SLURM cluster that is shipped, without GPUs, with ``changes``."""
    values = {"gpus_per_node": 0, "cpus_per_task": 1, **changes}
    for name in ("slurm", "local"):
        shipped = yaml.safe_load((_SHIPPED / f"{name}.yaml").read_text())
        values = {key: value for key, value in shipped.items() if key != "defaults"} | values
    return Cluster(**values)
