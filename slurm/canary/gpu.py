"""The GPUs of a node as its driver tells them, beside those that a job's ranks may use."""

import os
import subprocess

from slurm.canary.finding import CHANGE, OK, Finding, some
from slurm.canary.report import Figures
from slurm.errors import counted

_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]


def measure() -> Figures:
    """``cards`` as [name, MiB, driver] each, ``wrong`` where the driver does not tell, ``allotted`` by the queue."""
    cards: list[list[str]] = []
    wrong = None
    try:
        told = subprocess.run(_QUERY, capture_output=True, text=True, timeout=60, check=True).stdout
        cards = [[word.strip() for word in line.split(",")] for line in told.splitlines() if line.strip()]
    except FileNotFoundError:
        wrong = "no nvidia-smi"
    except subprocess.SubprocessError as error:
        wrong = str(error)
    return {"cards": cards, "wrong": wrong, "allotted": os.environ.get("CUDA_VISIBLE_DEVICES")}


def judge(reports: list[Figures], asked: int, of_a_rank: int) -> list[Finding]:
    """What the ranks' GPUs mean.

    Args:
        reports: each with its ``node``, ``rank``, and ``cuda``: how many GPUs the rank's own library can use.
        asked: GPUs asked for on a node.
        of_a_rank: how many of them each rank should see.
    """
    if not asked:
        return [Finding("gpus", OK, "none asked for (cluster.gpus_per_node=0): jobs compute on CPUs")]
    blind = [report for report in reports if report["cuda"] < of_a_rank]
    if blind:
        who = [f"rank {report['rank']} on {report['node']}" for report in blind]
        first = blind[0]
        driver = first["wrong"] or f"the driver shows {len(first['cards'])}"
        return [
            Finding(
                "gpus",
                CHANGE,
                f"CUDA sees {first['cuda']} of {counted(of_a_rank, 'GPU')} in {some(who)} ({driver}, "
                f"CUDA_VISIBLE_DEVICES={first['allotted']})",
                "install the torch build for that driver, choose cluster.partition= or cluster.constraint= with GPUs, "
                "or say cluster.gpus_per_node=0",
            )
        ]
    kinds = sorted({tuple(card) for report in reports for card in report["cards"]})
    cards = [f"{name}, {int(memory) / 1024:.0f} GiB, driver {driver}" for name, memory, driver in kinds]
    seen = f"{counted(asked, 'GPU')} a node usable in every rank"
    if len({kind[:2] for kind in kinds}) > 1:
        return [
            Finding(
                "gpus",
                CHANGE,
                f"the nodes' GPUs differ: {some(cards)}",
                "choose one kind with cluster.constraint= or cluster.partition=",
            )
        ]
    memory = min(int(memory) for _, memory, _ in kinds) if kinds else None
    learned = {"card": round(memory / 1024, 1)} if memory else {}
    return [Finding("gpus", OK, f"{seen}: {some(cards)}", learned=learned)]
