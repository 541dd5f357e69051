"""What the ranks' summing of tensors, which somebody else measures, says of the network between them."""

from slurm.canary.finding import CHANGE, OK, Finding
from slurm.canary.report import Figures
from slurm.errors import counted

SLOW_GB_S = 1.0
"""GPUs of two nodes on anything faster than 10 Gbit/s Ethernet do more."""


def judge(reports: list[Figures], nodes: int) -> list[Finding]:
    """What the exchange of all ranks means.

    Args:
        reports: as ``mvdiff.train.allreduce.measure`` returns them, or ``error``.
        nodes: which took part.
    """
    wrong = next((report["error"] for report in reports if "error" in report), None)
    if wrong is None and not all(report["right"] for report in reports):
        wrong = "the sum is wrong"
    if wrong is not None:
        return [
            Finding(
                "network",
                CHANGE,
                f"{counted(len(reports), 'rank')} on {counted(nodes, 'node')} cannot sum a tensor ({wrong})",
                "name the network between the nodes (ip -br addr on one of them) in cluster.network_interface=ib0, or "
                "train with cluster.nodes=1",
            )
        ]
    first = reports[0]
    speed = min(report["bus_gb_s"] for report in reports)
    kind = "NCCL all-reduce" if first["backend"] == "nccl" else "gloo all-reduce (no GPU was asked for or seen)"
    ranks = f"{counted(len(reports), 'rank')} on {counted(nodes, 'node')}"
    said = f"{kind} of {first['mib']} MiB, {ranks}: {speed:.2f} GB/s"
    if first["interface"]:
        said += f", meeting on {first['interface']}"
    if first["backend"] == "nccl" and nodes > 1 and speed < SLOW_GB_S:
        return [
            Finding(
                "network",
                CHANGE,
                said,
                "NCCL goes over a slow network: see with cluster.environment={NCCL_DEBUG: INFO} which, and name the "
                "fast one in cluster.network_interface, or in NCCL_IB_HCA there",
            )
        ]
    return [Finding("network", OK, said)]
