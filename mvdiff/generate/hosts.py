"""Hosts that fail where others do not, as the ledger tells."""

import time
from collections.abc import Iterable
from typing import Any

_FAILED_ALONE = 3


def bad_hosts(lines: Iterable[dict[str, Any]], within_s: float) -> dict[str, str]:
    """Hosts that failed where others did not, by the ledger's lines of the last ``within_s`` seconds, with the reason.

    A host is bad where its workers gave up, or where ``_FAILED_ALONE`` samples failed that came out on another host,
    while at least one other host published something.
    """
    recent = [line for line in lines if line["time"] > time.time() - within_s]
    publishers = {line["host"] for line in recent if line["kind"] == "published"}
    missing = {sample_id for line in recent if line["kind"] == "published" for sample_id in line["missing"]}
    resolved = {line["slice"] for line in recent if line["kind"] == "published"}
    last_good = {
        host: max(line["time"] for line in recent if line["kind"] == "published" and line["host"] == host)
        for host in publishers
    }
    bad: dict[str, str] = {}
    for host in sorted({line["host"] for line in recent}):
        if not publishers - {host}:
            continue
        own = [line for line in recent if line["host"] == host]
        failed = {
            line["sample_id"]: line["reason"]
            for line in own
            if line["kind"] == "failed" and line["slice"] in resolved and line["sample_id"] not in missing
        }
        gave_up = [
            line["reason"] for line in own if line["kind"] == "gave_up" and line["time"] > last_good.get(host, 0.0)
        ]
        if gave_up:
            bad[host] = gave_up[-1]
        elif len(failed) >= _FAILED_ALONE:
            bad[host] = f"{len(failed)} samples failed there and not elsewhere, one with {next(iter(failed.values()))}"
    return bad
