"""Which nodes a job can be kept away from."""

from collections.abc import Iterable

from slurm.cluster import Cluster
from slurm.queue import host_names, nodes


def dispensable(cluster: Cluster, bad: Iterable[str]) -> list[str]:
    """Those of the nodes ``bad`` that the partition has and the job is not kept away from already.

    None where too few nodes would be left for the job: then it is hardly the nodes that are bad.

    Raises:
        RequestError: the queue does not say which nodes there are.
    """
    if cluster.exclude and "/" in cluster.exclude:  # the name of a file with nodes: nothing can be added to it
        return []
    excluded = set(host_names(cluster.exclude)) if cluster.exclude else set()
    there = nodes(cluster.partition)
    found = [name for name in bad if name in there and name not in excluded]
    left = [name for name, takes_jobs in there.items() if takes_jobs and name not in excluded.union(found)]
    return found if len(left) >= cluster.nodes else []


def excluding(cluster: Cluster, names: list[str]) -> str:
    """What ``cluster.exclude`` becomes with the nodes ``names``."""
    return ",".join([*([cluster.exclude] if cluster.exclude else []), *names])
