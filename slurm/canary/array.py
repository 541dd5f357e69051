"""Arrays: whether all members run, and how long one may be."""

from slurm.canary.finding import CHANGE, NOTE, OK, Finding
from slurm.canary.report import Figures


def judge(reports: list[Figures], members: int, largest: int, refusal: str | None) -> list[Finding]:
    """What the members' reports and the queue's answer mean.

    Args:
        members: of the canary.
        largest: members that the cluster's configuration allows.
        refusal: what SLURM has against an array of that length now; None: nothing.
    """
    ran = {report["worker"] for report in reports}
    if len(ran) < members:
        return [
            Finding(
                "array",
                CHANGE,
                f"of {members} members of an array only {len(ran)} ran",
                "see squeue --me, and ask the site about arrays; until then cluster.workers=1",
            )
        ]
    nodes = len({report["node"] for report in reports})
    findings = [Finding("array", OK, f"all {members} members of an array ran, on {nodes} nodes")]
    if refusal is None:
        findings.append(
            Finding("array", OK, f"an array may have {largest} members: more workers become several arrays")
        )
    else:
        findings.append(
            Finding(
                "array",
                NOTE,
                f"an array of {largest} members, which the cluster allows, is not taken from you ({refusal}): as many "
                "workers as there is room for are queued, and they do all of the work",
            )
        )
    return findings
