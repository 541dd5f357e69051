"""Preemption: what the cluster's configuration promises, and what a preempted job saw."""

import re

from slurm.canary.finding import CHANGE, NOTE, OK, Finding
from slurm.canary.report import Figures
from slurm.command import run

SHORT_S = 30.0
"""Less between warning and kill is too little for most checkpoints."""


def promised(partition: str | None) -> Figures:
    """``kind``, ``mode``, ``grace_s`` of the partition (null: the default one), and ``warns``.

    Raises:
        RequestError: the queue does not say.
    """
    config = run("scontrol", "show", "config")
    shown = run("scontrol", "show", "partition", "--oneliner", *([partition.split(",")[0]] if partition else []))
    line = next((line for line in shown.splitlines() if partition or " Default=YES" in line), "")
    return {
        "kind": _setting(config, "PreemptType"),
        "mode": _setting(line, "PreemptMode"),
        "grace_s": int(_setting(line, "GraceTime") or 0),
        "warns": "preempt_send_user_signal" in (_setting(config, "SlurmctldParameters") or ""),
    }


def judge_promise(figures: Figures) -> list[Finding]:
    """What the configuration means for jobs in the partition."""
    part = "preemption"
    if "none" in (figures["kind"] or "none") or figures["mode"] == "OFF":
        return [Finding(part, OK, "jobs in this partition are not preempted")]
    if figures["mode"] == "SUSPEND" or "GANG" in (figures["mode"] or ""):
        return [Finding(part, NOTE, f"preempted jobs are suspended ({figures['mode']}) and go on in place")]
    if figures["warns"] and figures["grace_s"] >= SHORT_S:
        return [Finding(part, OK, f"preempted jobs are warned and have {figures['grace_s']} s")]
    lacks = [] if figures["warns"] else ["SlurmctldParameters=preempt_send_user_signal"]
    lacks += [] if figures["grace_s"] >= SHORT_S else [f"a GraceTime above {figures['grace_s']} s"]
    return [
        Finding(
            part,
            CHANGE,
            f"preempted jobs ({figures['mode']}) lack {' and '.join(lacks)}",
            "ask the site for it; until then lower train.save_every, the most steps that a preemption may cost",
        )
    ]


def judge(reports: list[Figures]) -> list[Finding]:
    """What a job that was preempted saw.

    Args:
        reports: of each start: ``restart``, ``heard`` (signal: seconds since 1970) and ``last``, when it last lived.
    """
    starts = {report["restart"]: report for report in reports}
    first = starts.get(0)
    part = "preemption"
    if first is None or 1 not in starts:
        return [
            Finding(
                part,
                CHANGE,
                "the canary was not preempted, or did not come back",
                "see that preempted_by= names a partition of higher PriorityTier (scontrol show partition)",
            )
        ]
    back = starts[1]["at"] - first["last"]
    if not first["heard"]:
        return [
            Finding(
                part,
                CHANGE,
                f"a preempted job is killed without a warning, and comes back after {back:.0f} s",
                "ask the site for SlurmctldParameters=preempt_send_user_signal and a GraceTime",
            )
        ]
    name, at = min(first["heard"].items(), key=lambda item: item[1])
    left = first["last"] - at
    said = f"{name} comes {left:.0f} s before a preempted job is killed, and it comes back after {back:.0f} s"
    if left < SHORT_S:
        return [Finding(part, CHANGE, said, "ask the site for a longer GraceTime, or lower train.save_every")]
    return [Finding(part, OK, said)]


def _setting(text: str, name: str) -> str | None:
    found = re.search(rf"\b{name}\s*=\s*(\S+)", text)
    return found.group(1) if found else None
