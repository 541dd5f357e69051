"""What one node does in a folder, as the other nodes see it: what leases, plans and publications stand on."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from slurm.canary.finding import CHANGE, NOTE, OK, Finding, some
from slurm.canary.report import Figures
from slurm.canary.wire import Wire

ROUNDS = 3
LOOK_S = 45.0
"""How long another node looks for what was done: NFS may remember for 30 s and more that a name was not there."""
LATE_S = 10.0
"""A lease's heartbeat that comes later than this makes its holder look dead sooner."""


def measure(wire: Wire, folder: Path, me: str) -> Figures:
    """Rank 0 writes into ``folder``, the other ranks say when they see it; every rank calls this.

    Seconds are counted from when rank 0's message arrives, sent once its call had returned, on the observer's clock.

    Args:
        me: a name of this rank that no other one bears.

    Returns:
        ``there``; ``rename_s``, ``append_s``: until seen, null where never; ``linked``: whether this rank's hard link
        was the one that won; ``locked_out``: whether a lock that rank 0 holds holds this rank off.
    """
    there = _writable(folder, me)
    everywhere = _all(wire, there is None)
    if not everywhere:
        return {"there": there}
    figures: Figures = {"there": None}
    figures["rename_s"] = max((_rename(wire, folder, k) for k in range(ROUNDS)), key=_worst)
    figures["append_s"] = _append(wire, folder)
    figures["linked"] = _link(wire, folder, me)
    figures["locked_out"] = _lock(wire, folder)
    return figures


def reachable(folder: Path) -> str | None:
    """What is wrong with a folder of the user's on this node; it is only looked at."""
    try:
        os.listdir(folder)  # noqa: PTH208
    except OSError as error:
        return error.strerror or str(error)
    return None


def judge(folder: str, reports: list[Figures], needed: bool) -> list[Finding]:
    """What the figures of one folder mean.

    Args:
        needed: whether jobs work in it; else it only has to be there.
    """
    part = "filesystem"
    missing = {report["node"]: report["there"] for report in reports if report["there"]}
    if missing:
        nodes, why = sorted(missing), next(iter(missing.values()))
        return [
            Finding(
                part,
                CHANGE,
                f"{folder} cannot be used on {some(nodes)} ({why})",
                "choose a folder that the nodes share" + (" for runs=" if needed else ""),
            )
        ]
    seen = [report for report in reports if report["rank"]]
    if not seen or any("rename_s" not in report for report in seen):
        return [Finding(part, OK, f"{folder} is there on {some(sorted({report['node'] for report in reports}))}")]
    findings = []
    for key, what in (("rename_s", "a renamed file"), ("append_s", "what was appended to a file")):
        latest = max((report[key] for report in seen), key=_worst)
        if latest is None:
            nodes = sorted({report["node"] for report in seen if report[key] is None})
            findings.append(
                Finding(
                    part,
                    CHANGE,
                    f"{what} in {folder} is not seen on {some(nodes)} within {LOOK_S:.0f} s",
                    "choose runs= on a file system that the nodes share",
                )
            )
        elif latest > LATE_S:
            findings.append(
                Finding(
                    part,
                    CHANGE,
                    f"{what} in {folder} is seen elsewhere after {latest:.1f} s",
                    "choose runs= on a parallel file system, or have NFS mounted with actimeo=3",
                )
            )
        else:
            findings.append(Finding(part, OK, f"{what} in {folder} is seen elsewhere within {1000 * latest:.0f} ms"))
    winners = sum(bool(report["linked"]) for report in reports)
    if winners == 1:
        findings.append(Finding(part, OK, f"of {len(reports)} hard links to one name in {folder} one won"))
    else:
        findings.append(
            Finding(
                part,
                CHANGE,
                f"of {len(reports)} hard links to one name in {folder} {winners} won, where leases need one",
                "choose runs= on a file system with hard links, or generate with cluster.workers=1",
            )
        )
    if all(report["locked_out"] for report in seen):
        findings.append(Finding(part, OK, f"flock in {folder} holds across nodes"))
    else:
        findings.append(Finding(part, NOTE, f"flock in {folder} does not hold across nodes: no job of mvdiff needs it"))
    return findings


def _worst(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


def _all(wire: Wire, good: bool) -> bool:
    if wire.first:
        good = all([good, *wire.hear_all()])
        wire.tell(good)
        return good
    wire.tell(good)
    return bool(wire.hear())


def _writable(folder: Path, me: str) -> str | None:
    """What is wrong with the folder on this node."""
    try:
        probe = folder / f"{me}.probe"
        probe.write_text(me, encoding="utf-8")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _rename(wire: Wire, folder: Path, number: int) -> float | None:
    path = folder / f"renamed-{number}"
    if not wire.first:
        path.exists()  # from now on a cache may remember that it is not there
        wire.tell("looked")
        seen = _seen(wire, lambda: path.read_text(encoding="utf-8") == "whole")
        wire.tell("done")
        return seen
    wire.hear_all()
    temporary = path.with_suffix(".part")
    _write(temporary, "whole", "w")
    temporary.replace(path)
    _sync(folder)
    wire.tell("renamed")
    wire.hear_all()
    return 0.0


def _append(wire: Wire, folder: Path) -> float | None:
    path = folder / "renamed-0"
    if not wire.first:
        path.read_text(encoding="utf-8")
        wire.tell("read")
        seen = _seen(wire, lambda: path.read_text(encoding="utf-8") == "whole and more")
        wire.tell("done")
        return seen
    wire.hear_all()
    _write(path, " and more", "a")
    wire.tell("appended")
    wire.hear_all()
    return 0.0


def _link(wire: Wire, folder: Path, me: str) -> bool:
    """All ranks link their own file to one name at once; whether this one won."""
    if wire.first:
        wire.tell("go")
    else:
        wire.hear()
    own, name = folder / f"{me}.probe", folder / "taken"
    with contextlib.suppress(OSError):
        os.link(own, name)
    # NFS may say that a link failed which was made: its count tells
    won = own.stat().st_nlink == 2
    if wire.first:
        wire.hear_all()
    else:
        wire.tell("done")
    return won


def _lock(wire: Wire, folder: Path) -> bool:
    path = folder / "renamed-0"
    with path.open("r+b") as file:
        if wire.first:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            wire.tell("locked")
            wire.hear_all()
            return False
        wire.hear()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked_out = True
        except OSError:
            locked_out = False
        else:
            locked_out = False
            # the next observer must not be held off by this one
            fcntl.flock(file, fcntl.LOCK_UN)
        wire.tell("done")
        return locked_out


def _seen(wire: Wire, look: Callable[[], bool]) -> float | None:
    """Seconds from rank 0's word until ``look`` is true; None where it never is."""
    wire.hear()
    began = time.monotonic()
    while (waited := time.monotonic() - began) < LOOK_S:
        with contextlib.suppress(OSError):
            if look():
                return waited
        time.sleep(0.005)
    return None


def _write(path: Path, text: str, mode: str) -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
