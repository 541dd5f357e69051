"""How far the clocks of a job's nodes are apart."""

import time

from slurm.canary.finding import CHANGE, OK, Finding
from slurm.canary.report import Figures
from slurm.canary.wire import Wire

ROUNDS = 20
APART_S = 1.0
"""Event logs of several nodes are put into one order by their clocks, and a warning is held against the time limit."""


def measure(wire: Wire) -> Figures:
    """This rank's clock against rank 0's, by the quickest of some round trips; every rank calls this."""
    if wire.first:
        for k in wire.others:
            for _ in range(ROUNDS):
                wire.hear(k)
                wire.tell(time.time(), k)
        return {"ahead_s": 0.0, "round_trip_s": 0.0}
    trips = []
    for _ in range(ROUNDS):
        sent = time.time()
        wire.tell(None)
        there = wire.hear()
        came = time.time()
        trips.append((came - sent, (sent + came) / 2 - there))
    round_trip, ahead = min(trips)
    return {"ahead_s": ahead, "round_trip_s": round_trip}


def judge(reports: list[Figures]) -> list[Finding]:
    """What the clocks' differences mean."""
    ahead = {report["node"]: report["ahead_s"] for report in reports}
    apart = max(ahead.values()) - min(ahead.values())
    if len(ahead) < 2:
        return [Finding("clock", OK, "one node only, nothing to compare")]
    if apart < APART_S:
        slowest = max(report["round_trip_s"] for report in reports)
        return [
            Finding(
                "clock",
                OK,
                f"clocks of {len(ahead)} nodes within {1000 * apart:.1f} ms (a message and its answer take "
                f"{1000 * slowest:.1f} ms)",
            )
        ]
    node = max(ahead, key=lambda name: abs(ahead[name]))
    return [
        Finding(
            "clock",
            CHANGE,
            f"clock of node {node} is {abs(ahead[node]):.1f} s {'ahead' if ahead[node] > 0 else 'behind'}",
            f"tell the site's administrators (chronyd there), and until then cluster.exclude={node}",
        )
    ]
