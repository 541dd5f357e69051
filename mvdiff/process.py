"""Processes of this machine."""

from pathlib import Path


def started(pid: int) -> int:
    """Start of process ``pid`` in clock ticks since boot (proc(5), field 22 of ``stat``); -1 if there is none.

    A zombie process has ended, whatever its parent has done about it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])
