"""The files that describe sites: where they lie, and how what was learned gets into them."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.groups import CONFIGS, own_folders
from mvdiff.durable import alone, published
from mvdiff.errors import InputError

SHIPPED = ("here", "local", "slurm")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_OTHERWISE_READ = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"])
"""Words that YAML or Hydra take for something else than text."""
_WORD = re.compile(r"[A-Za-z/$][\w./$@-]*", re.ASCII)
_VALUE = r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^#\s"'].*?"""
"""What stands behind a key, before a comment."""
_LEARNED = "# learned: "


def own() -> dict[str, Path]:
    """The user's own sites, by name."""
    found: dict[str, Path] = {}
    for place in own_folders():
        for file in sorted((place / "cluster").glob("*.yaml")):
            found.setdefault(file.stem, file)
    return {name: file for name, file in found.items() if name not in SHIPPED}


def refuse_name(name: str) -> None:
    """
    Raises:
        InputError: no site can be called so.
    """
    if name in SHIPPED:
        raise InputError(f"cluster={name} is shipped with mvdiff", "give your site another name")
    if not _NAME.fullmatch(name) or name.lower() in _OTHERWISE_READ:
        raise InputError(f"{name!r} is no name for a site", "use a letter, then letters, digits, _ and -")


def create(file: Path, values: Mapping[str, Any], head: str) -> None:
    """Write a site's file: keys with their ``values``, in the order and with the comments of the shipped one.

    Args:
        head: the comment of the first line.

    Raises:
        OSError: it cannot be written.
    """
    lines = [f"# {head}", "defaults: [slurm, _self_]"]
    shipped = (CONFIGS / "cluster/slurm.yaml").read_text(encoding="utf-8")
    comments = dict(re.findall(r"^(\w+): .*?(?: +# (.*))?$", shipped, re.MULTILINE))
    for key in [*(key for key in comments if key in values), *(key for key in values if key not in comments)]:
        line = f"{key}: {_written(values[key])}"
        lines.append(f"{line:<24} # {comments[key]}" if comments.get(key) else line)
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(file, "".join(f"{line}\n" for line in lines), None)


def update(file: Path, changes: Mapping[str, Any], learned: Mapping[str, Sequence[str]]) -> None:
    """Set keys of a site's file, and put what was ``learned`` of each part at its end, in place of what was before.

    What people wrote into it otherwise stays as it is, to the byte.

    Raises:
        OSError: it cannot be read or written.
    """
    file = file.resolve()
    with alone(file.parent):
        text = file.read_bytes().decode()
        end = "\r\n" if "\r\n" in text else "\n"
        lines = text.splitlines()
        kept = [line for line in lines if not line.startswith(_LEARNED)]
        for key, value in changes.items():
            kept = _with(kept, key, _written(value))
        outdated = tuple(f"{_LEARNED}{part}: " for part in learned)
        known = [line for line in lines if line.startswith(_LEARNED) and not line.startswith(outdated)]
        known += [f"{_LEARNED}{part}: {' '.join(line.split())}" for part, told in learned.items() for line in told]
        _write(file, "".join(f"{line}{end}" for line in [*kept, *known]), file.stat())


def _with(lines: list[str], key: str, value: str) -> list[str]:
    """``lines`` in which the key at their outer level has that value, its comment kept; at their end if it is new."""
    for number, line in enumerate(lines):
        found = re.fullmatch(rf"({key}:)(?:\s+(?:{_VALUE}))?(\s+#.*)?\s*", line)
        if found:
            after = number + 1
            while after < len(lines) and re.match(r"\s+\S|- ", lines[after]):
                after += 1
            return [*lines[:number], f"{found[1]} {value}{found[2] or ''}", *lines[after:]]
    return [*lines, f"{key}: {value}"]


def _written(value: Any) -> str:
    """A value as all rules of YAML read it back: JSON, but for words that nothing takes for more."""
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _OTHERWISE_READ:
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(str(key))}: {_written(one)}' for key, one in value.items())}}}"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    # YAML breaks lines where JSON does not, and has no pairs of surrogates
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False)
    )


def _write(file: Path, text: str, like: os.stat_result | None) -> None:
    with published(file) as temporary:
        temporary.write_bytes(text.encode())
        if like is None:
            return
        # a file that a lab shares stays the lab's
        with suppress(OSError):
            os.chown(temporary, -1, like.st_gid)
        temporary.chmod(like.st_mode & 0o777)
