"""The files that describe sites: where they lie, and how what was learned gets into them."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from jobs.groups import CONFIGS, own_folders
from mvdiff.durable import write_text
from mvdiff.errors import InputError

SHIPPED = ("here", "local", "slurm")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
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
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a site", "use letters, digits and _ . -")


def create(file: Path, values: Mapping[str, Any], head: str) -> None:
    """Write a site's file: those keys of the shipped one that have ``values``, with their comments, below ``head``.

    Raises:
        OSError: it cannot be written.
    """
    content = _load((CONFIGS / "cluster/slurm.yaml").read_text(encoding="utf-8"), file)
    for key in list(content):
        if key != "defaults" and key not in values:
            del content[key]
    content["defaults"] = ["slurm", "_self_"]
    for key, value in values.items():
        content[key] = value
    text = re.sub(r"\A(#.*\n)+", "", _dumped(content))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, f"# {head}\n{text}")


def update(file: Path, changes: Mapping[str, Any], learned: Mapping[str, Sequence[str]]) -> None:
    """Set keys of a site's file, and put what was ``learned`` of each part at its end, in place of what was before.

    What people wrote into it, comments included, stays.

    Raises:
        InputError: it is no YAML mapping.
        OSError: it cannot be written.
    """
    file = file.resolve()
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(_LEARNED)]
    outdated = tuple(f"{_LEARNED}{part}: " for part in learned)
    known = [line for line in lines if line.startswith(_LEARNED) and not line.startswith(outdated)]
    known += [f"{_LEARNED}{part}: {line}" for part, told in learned.items() for line in told]
    content = _load("\n".join(kept) + "\n", file)
    for key, value in changes.items():
        content[key] = value
    text = _dumped(content)
    write_text(file, text + "".join(f"{line}\n" for line in known))


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    # null as people write it, not as nothing
    yaml.representer.add_representer(type(None), lambda it, _: it.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def _load(text: str, file: Path) -> CommentedMap:
    try:
        content = _yaml().load(text)
    except YAMLError as error:
        line = " ".join(str(error).split())
        raise InputError(f"{file} is no YAML ({line})", "mend that line") from None
    if not isinstance(content, CommentedMap):
        raise InputError(f"{file} holds no keys", "write KEY: VALUE lines into it")
    return content


def _dumped(content: CommentedMap) -> str:
    stream = io.StringIO()
    _yaml().dump(content, stream)
    return stream.getvalue()
