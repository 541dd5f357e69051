"""`mvdiff cluster new SITE`: a file that describes a site, from what the cluster says of itself."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.console import Console
from rich.prompt import IntPrompt, Prompt

from jobs import sites
from jobs.compose import composed, nearest, settings
from jobs.groups import find, user_folder
from jobs.parser import helped, parser
from jobs.preflight import Findings
from jobs.runfolder import short
from mvdiff.errors import InputError
from slurm.cluster import Cluster
from slurm.errors import RequestError
from slurm.offer import (
    Partition,
    accounts,
    fitted,
    partitions,
    refuse_cpus_of_a_task,
    refuse_gpus,
    refuse_minutes,
)
from slurm.patience import persevere

HELP = """\
mvdiff cluster: the sites that jobs can be sent to

usage: mvdiff cluster new SITE [key=value ...] [--yes] [--here] [--force] [--json]
       mvdiff cluster list [--json]
       mvdiff cluster show SITE [--json]

new    asks the cluster (sinfo, sacctmgr) and then you, tries with sbatch --test-only which way of asking for GPUs and
       memory it takes, and writes the answers to a file, which cluster=SITE means from then on. Queues nothing.
       Keys given are not asked for; mvdiff train --keys cluster=slurm explains all of them.
list   your sites
show   what cluster=SITE asks for, and which file says so

options
  --yes       take what is suggested, and ask nothing; so it is where no terminal is there to answer
  --here      write to configs/cluster/ of this folder, for those who work in it, and not to your own configuration
  --force     replace the file that is there
  --json      print one JSON object on standard output and nothing else there

examples
  mvdiff cluster new mysite
  mvdiff cluster new mysite partition=gpu account=lab gpu_type=a100 time_min=720 --yes
  mvdiff doctor cluster=mysite

exit status
  0 done, 2 the request was wrong, or SLURM takes no such job (one line says what)"""

_DAY_MIN = 1440
_SPARE = 0.95
"""Share of a node's memory that jobs can ask for: SLURM's own view of it may be smaller than the machine's."""
_OFFERED = ("account", "gpus_per_node", "cpus_per_task", "time_min")
"""Keys whose values the cluster itself limits."""
_CPUS = 2
"""Of a process without a GPU, unless asked for more: one computes (``train.threads``, ``generate.threads``), another
reads and writes beside it."""


def cluster(words: Sequence[str]) -> int:
    """Make, list or show sites; returns the exit status.

    Raises:
        InputError, RequestError: the request was wrong, or the queue takes no such job.
    """
    if helped(words, HELP) or not words:
        if not words:
            print(HELP)
        return 0
    options = parser("cluster")
    options.add_argument("verb")
    options.add_argument("words", nargs="*")
    for flag in ("--yes", "--here", "--force", "--json"):
        options.add_argument(flag, action="store_true")
    asked = options.parse_intermixed_args(words)
    match asked.verb, asked.words:
        case "new", [name, *given] if "=" not in name:
            try:
                return _new(name, given, asked.yes, asked.here, asked.force, asked.json)
            except EOFError:
                raise InputError("the questions got no answer", "answer them, or add --yes") from None
        case "new", _:
            raise InputError("SITE is not given", "say mvdiff cluster new SITE, a name of your choice")
        case "list", []:
            return _list(asked.json)
        case "show", [name]:
            return _show(name, asked.json)
    raise InputError(f"mvdiff cluster {' '.join(words)} is not understood", "see mvdiff cluster --help")


def _new(name: str, given: Sequence[str], yes: bool, here: bool, force: bool, as_json: bool) -> int:
    sites.refuse_name(name)
    place = Path.cwd() / "configs" if here else user_folder()
    file = place / "cluster" / f"{name}.yaml"
    if file.exists() and not force:
        raise InputError(f"{file} is there already", "add --force to replace it, or change it with an editor")
    values = _given(given)
    console = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    talks = not yes and not as_json and sys.stdin.isatty()

    def tell(line: str) -> None:
        console.print(f"cluster: {line}")

    if not (talks or yes or as_json):
        tell("no terminal is there to answer: takes what is suggested, as with --yes")
    there = persevere(partitions, tell)
    if not there:
        raise RequestError("sinfo shows no partition that is up and that you may use", "ask the site which is yours")
    if talks:
        for one in there:
            console.print(f"{one.name:<16}{one.shown()}{' (the default one)' if one.default else ''}")
    chosen = _partitions(there, values, talks, console)
    charged = accounts()
    findings = Findings()
    for key in _OFFERED:
        if values.get(key) is not None:
            findings.look(partial(_refuse_impossible, key, values, chosen, charged))
    findings.refuse()
    values = _asked(chosen, charged, values, talks, console) | values
    values, refusal = _tried(values, tell)
    if refusal:
        raise RequestError(
            f"SLURM would not take a job of this kind ({refusal})",
            f"give what it misses: mvdiff cluster new {name} partition=... account=... qos=... time_min=...",
        )
    day = time.strftime("%Y-%m-%d")
    sites.create(file, values, f"cluster={name}, as asked for on {day}; what doctor found stands at the end.")
    if as_json:
        print(json.dumps({"job": "cluster", "state": "done", "cluster": name, "file": str(file), "values": values}))
        return 0
    console.print(f"SLURM takes such jobs; {short(file)} says:")
    console.print("".join(f"  {line}\n" for line in file.read_text(encoding="utf-8").splitlines()), end="")
    own = user_folder() / "cluster" / file.name
    if own != file and own.exists():
        tell(f"in this folder cluster={name} means that file now, and no longer {short(own)}")
    console.print(f"next: mvdiff doctor cluster={name}")
    return 0


def _given(words: Sequence[str]) -> dict[str, Any]:
    """The keys that were said, with their values."""
    known = _shipped()
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.removeprefix("cluster.")
        if not equals or key not in known or key == "kind":
            raise InputError(f"{word!r} is no key of a site", nearest(key, list(known)))
        try:
            found[key] = yaml.safe_load(value)
            json.dumps(found[key])
        except (yaml.YAMLError, TypeError, ValueError):
            raise InputError(f"{word!r} cannot be read", f"write {key}=VALUE as in a YAML file") from None
    settings(Cluster, known | found, "cluster")
    return found


def _shipped() -> dict[str, Any]:
    content = OmegaConf.to_container(composed("canaries", []).cluster)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _partitions(there: list[Partition], values: dict[str, Any], talks: bool, console: Console) -> list[Partition]:
    """Those that jobs are to go to, of which SLURM takes one."""
    names = {one.name: one for one in there}
    asked = values.get("partition")
    if asked is None and talks:
        asked = Prompt.ask("partition", choices=list(names), default=there[0].name, console=console)
    if asked is None:
        return there[:1]
    for name in str(asked).split(","):
        if name not in names:
            raise RequestError(
                f"partition {name!r} does not exist on this cluster, or is down",
                f"choose partition= from {', '.join(names)}",
            )
    return [names[name] for name in str(asked).split(",")]


def _refuse_impossible(key: str, values: dict[str, Any], chosen: list[Partition], charged: list[str]) -> None:
    """Refuse a value of ``key`` that no partition of ``chosen`` allows, or an account that is not ``charged``."""
    value = values[key]
    if key == "account":
        # without accounting nobody knows which there are
        if charged and value not in charged:
            raise RequestError(f"account {value!r} is none of yours", f"choose account= from {', '.join(charged)}")
    elif key == "gpus_per_node":
        refuse_gpus(key, value, chosen)
    elif key == "cpus_per_task":
        refuse_cpus_of_a_task(key, value, chosen)
    else:
        refuse_minutes(key, value, chosen, values.get("qos"))


def _asked(
    chosen: list[Partition], charged: list[str], given: dict[str, Any], talks: bool, console: Console
) -> dict[str, Any]:
    """What the partition suggests, and what the user says to that; not what was ``given``."""
    first = chosen[0]
    node = first.typical
    values: dict[str, Any] = {"partition": first.name}
    shipped = _shipped()

    def take(key: str, said: Any) -> None:
        """Keep an answer, or tell why it cannot be."""
        try:
            if key in _OFFERED:
                _refuse_impossible(key, given | {key: said}, chosen, charged)
            settings(Cluster, shipped | {key: said}, "cluster")
        except (InputError, RequestError) as refusal:
            console.print(str(refusal))
        else:
            values[key] = said

    def number(key: str, text: str, suggested: int) -> None:
        while key not in given and key not in values:
            take(key, IntPrompt.ask(text, default=suggested, console=console) if talks else suggested)

    def text(key: str, question: str, read: Callable[[str], Any] = str) -> None:
        while talks and key not in given and key not in values:
            asked = Prompt.ask(f"{question} (empty: none)", default="", show_default=False, console=console)
            if not asked.strip():
                return
            take(key, read(asked.strip()))

    if len(charged) > 1 and talks and "account" not in given:
        values["account"] = Prompt.ask("account", choices=charged, default=charged[0], console=console)
    elif charged and "account" not in given:
        values["account"] = charged[0]
    if first.gpus:
        number("gpus_per_node", f"GPUs of a node that a job takes, of {node.gpus}", min(node.gpus, 1))
    elif "gpus_per_node" not in given:
        values["gpus_per_node"] = 0
    gpus = int(given.get("gpus_per_node", values.get("gpus_per_node", 0)) or 0)
    kinds = {kind.gpu_type for kind in first.nodes if kind.gpus}
    if gpus and node.gpus:
        if len(kinds) > 1:
            values["gpu_type"] = node.gpu_type
        if not {"cpus_per_gpu", "cpus_per_task"} & set(given):
            values["cpus_per_gpu"] = max(1, node.cpus // node.gpus)
        if not {"memory_gb", "memory_per_cpu_gb", "memory_per_gpu_gb"} & set(given):
            values["memory_per_gpu_gb"] = max(1, int(_SPARE * node.memory_gb / node.gpus))
    elif "cpus_per_gpu" not in given:
        number("cpus_per_task", f"CPUs of every process, of {node.cpus}", min(_CPUS, node.cpus))
    number("time_min", "time limit of a job, in minutes", min(first.minutes or _DAY_MIN, _DAY_MIN))
    text("modules", "environment modules to load, with spaces between", str.split)
    text("scratch", "folder on the nodes' own disks for temporary files")
    text("mail_user", "mail address for jobs that ended or failed")
    if "mail_user" in values:
        values["mail_type"] = "END,FAIL"
    return values


def _tried(values: dict[str, Any], tell: Callable[[str], None]) -> tuple[dict[str, Any], str | None]:
    """``values`` with a way of asking that SLURM takes, and what it has against every way."""
    one = settings(Cluster, _shipped() | values, "cluster")
    took, refusal = fitted(one, tell)
    if took.gpu_request != one.gpu_request:
        values = values | {"gpu_request": took.gpu_request}
    memory = ("memory_gb", "memory_per_cpu_gb", "memory_per_gpu_gb")
    dropped = {key for key in memory if getattr(one, key) is not None and getattr(took, key) is None}
    return {key: value for key, value in values.items() if key not in dropped}, refusal


def _list(as_json: bool) -> int:
    found = sites.own()
    if as_json:
        print(json.dumps({"job": "cluster", "state": "done", "clusters": {name: str(f) for name, f in found.items()}}))
        return 0
    for name, file in found.items():
        print(f"{name:<16}{short(file)}")
    if not found:
        print("no sites yet: mvdiff cluster new SITE, on a login node")
    return 0


def _show(name: str, as_json: bool) -> int:
    file = find("cluster", name)
    if file is None:
        known = ", ".join([*sites.SHIPPED, *sites.own()])
        raise InputError(f"cluster={name} does not exist", f"choose from {known}, or mvdiff cluster new {name}")
    values = OmegaConf.to_container(composed("canaries", [f"cluster={name}"]).cluster)
    if as_json:
        answer = {"job": "cluster", "state": "done", "cluster": name, "file": str(file), "values": values}
        print(json.dumps(answer))
        return 0
    print(f"# {short(file)}")
    print(OmegaConf.to_yaml(OmegaConf.create(values)), end="")
    return 0
