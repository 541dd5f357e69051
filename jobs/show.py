"""`mvdiff show RUN`: with which settings, code and words a run's job was made."""

import json
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from jobs.parser import helped, named_job, named_run, parser
from jobs.remains import recorded
from jobs.retry import command
from jobs.runfolder import JobFolder
from mvdiff.errors import InputError

HELP = """\
mvdiff show: with which settings, code and words a run's job was made

usage: mvdiff show RUN [--job NNN-JOB] [--diff OTHER] [--json]

Prints the resolved configuration of the newest job, its provenance (commit, versions, who, where, when), and the
command that makes it again. With --diff only the settings that differ from those of the newest job of the same kind in
another run.

options
  --job NNN-JOB  another job: its name or number (002-train, 2), or train, generate ... for the newest of these
  --diff OTHER   another run, by name or folder
  --json         print one JSON object on standard output and nothing else there

examples
  mvdiff show mice --job train
  mvdiff show mice --job train --diff mice-slow

exit status
  0 shown, 2 the request was wrong"""

_ABSENT = "(none)"


def show(words: Sequence[str]) -> int:
    """Print what the words ask for; returns the exit status.

    Raises:
        InputError: no such run or job, or what was written down of it is damaged.
    """
    if helped(words, HELP):
        return 0
    options = parser("show")
    options.add_argument("run")
    options.add_argument("--job")
    options.add_argument("--diff")
    options.add_argument("--json", action="store_true")
    asked = options.parse_intermixed_args(words)
    folder = named_job(named_run(asked.run), asked.job)
    answer: dict[str, Any] = {"job": "show", "run": folder.run.name, "of": folder.path.name}
    if asked.diff:
        other = named_job(named_run(asked.diff), folder.job)
        found = differences(_config(folder), _config(other))
        answer |= {"other": other.run.name, "other_of": other.path.name, "differences": found}
        text = [f"{folder.run.name}/{folder.path.name} against {other.run.name}/{other.path.name}"]
        text += [f"  {key}: {ours} | {theirs}" for key, (ours, theirs) in found.items()]
        text += [] if found else ["  the same settings"]
    else:
        provenance, again = recorded(folder), command(folder)
        answer |= {"config": _config(folder), "provenance": provenance, "command": again}
        text = [f"{folder.run.name}/{folder.path.name}", "", "configuration"]
        text += [f"  {line}" for line in (folder.path / "config.yaml").read_text(encoding="utf-8").splitlines()]
        text += ["", "provenance"]
        text += [
            f"  {key}: {_plain(value)}" for key, value in provenance.items() if key not in ("overrides", "command")
        ]
        text += ["", "again", f"  {again}"]
    print(json.dumps(answer) if asked.json else "\n".join(text))
    return 0


def differences(ours: Any, theirs: Any, at: str = "") -> dict[str, tuple[Any, Any]]:
    """The settings that are not the same, by their full key; what one of them lacks stands as ``(none)``."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            found |= differences(ours.get(key, _ABSENT), theirs.get(key, _ABSENT), f"{at}.{key}" if at else str(key))
        return found
    return {} if ours == theirs else {at: (ours, theirs)}


def _config(folder: JobFolder) -> Any:
    try:
        return OmegaConf.to_container(folder.config())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.path / 'config.yaml'} cannot be read ({error})", "choose another --job") from None


def _plain(value: Any) -> str:
    return ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)
