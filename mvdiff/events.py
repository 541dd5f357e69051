"""A run's append-only event log: JSON lines, one writer a file."""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class EventLog:
    """Append events to ``path``; every event is one line written by one system call.

    Only one process may write a given file: name it after the writer (``rank-0.jsonl``, ``worker-3.jsonl``).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._end_torn_line()

    def write(self, kind: str, **fields: Any) -> None:
        """Append the event ``kind`` with its fields and the time (seconds since 1970)."""
        line = json.dumps({"time": round(time.time(), 3), "kind": kind, **fields}, ensure_ascii=False) + "\n"
        content = line.encode()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            if os.write(handle, content) < len(content):
                os.write(handle, b"\n")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        finally:
            os.close(handle)

    def read(self) -> Iterator[dict[str, Any]]:
        """The events so far, those of earlier processes with this file's name included."""
        return _read(self._path)

    def _end_torn_line(self) -> None:
        """A writer killed in the middle of a line must not glue the next event to it."""
        if not self._path.exists() or self._path.stat().st_size == 0:
            return
        with self._path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Every whole event of every log in ``folder``, file by file; what is no event is passed over."""
    for path in sorted(folder.glob("*.jsonl")):
        yield from _read(path)


def last_events(path: Path, size: int, most: int = 0, kind: str = "") -> list[dict[str, Any]]:
    """The whole events in the last ``size`` bytes of the log at ``path``; none where there is no log.

    Args:
        most: only the last so many lines; 0: all.
        kind: only events whose kind begins so.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            lines = file.read().rstrip(b"\n").split(b"\n")
    except FileNotFoundError:
        return []
    sought = f'"kind": "{kind}'.encode()
    chosen = [line for line in lines if sought in line][-most:]
    return list(_parsed(b"\n".join(chosen).decode("utf-8", "replace")))


def _read(path: Path) -> Iterator[dict[str, Any]]:
    yield from _parsed(path.read_text(encoding="utf-8", errors="replace"))


def _parsed(text: str) -> Iterator[dict[str, Any]]:
    # Not splitlines: it also splits at characters that JSON leaves as they are, such as U+2028 in an id.
    for line in text.split("\n"):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(event, dict)
            and isinstance(event.get("kind"), str)
            and isinstance(event.get("time"), int | float)
        ):
            yield event
