"""Help texts: what a manual page shows on its first screen, with the keys read from the configuration itself.

Reads the YAML files as text, so that help is shown without loading Hydra.
"""

import ast
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from jobs import JOBS
from jobs.groups import CONFIGS, choices, find

SUMMARIES = {
    "synth": "render procedural mice into shards",
    "pack": "pack folders of six-view pictures into shards",
    "train": "fine-tune the multi-view model on shards",
    "generate": "generate six views for every picture of a data set, each once",
    "evaluate": "score generated views against the truth and write a report",
    "verify": "check every byte of shards, results and checkpoints against its checksum",
    "export": "write results as .npy, PNG or FaceLift folders",
    "status": "where runs stand: queued and why, running and how far, failed and why",
    "logs": "what the processes of a run's job have printed",
    "cancel": "end what a run has queued or running",
    "retry": "do what failed of a run once more",
    "show": "with which settings, code and words a run's job was made",
    "clean": "leftovers of runs, listed first and deleted only when told to",
    "cluster": "describe the cluster that jobs are sent to, by asking it",
    "doctor": "whether a model fits a GPU; with cluster=SITE: what a cluster does to jobs",
    "bench": "how fast this machine trains, generates, feeds, saves and scales",
    "demo": "the whole way on this machine: synth, train, generate, evaluate",
    "testbed": "a SLURM of four virtual nodes on this one machine, for trying and testing",
}

DESCRIPTIONS = {
    "synth": "Renders articulated mice, seen by the six cameras of a rig, and publishes them as HDF5 shards in "
    "runs/NAME/shards/train and runs/NAME/shards/heldout. Sample i is a pure function of the seed and i.",
    "pack": "Imports sample folders (images/cam_000.png ... and opencv_cameras.json; with cameras=rig six pictures "
    "alone) into HDF5 shards in runs/NAME/shards/train and runs/NAME/shards/heldout, split by recording. Masks may lie "
    "in masks/ under the pictures' names. cameras=single like=CHECKPOINT makes shards of single pictures, for "
    "mvdiff generate alone. Everything wrong is told before anything is written.",
    "train": "Trains on the shards of data= and publishes checkpoints in runs/NAME/checkpoints, in diffusers' folder "
    "layout. A job that is warned, preempted or out of time saves, returns to the queue and goes on where it was; the "
    "same command again continues or says that all is done.",
    "generate": "Takes the best checkpoint of the run (the newest where there was no validation) and generates six "
    "views for every sample of data= with cluster.workers workers, which share the work by leases: workers may be "
    "killed, added or run twice. Results go to runs/NAME/results, one set for each checkpoint, configuration, seed and "
    "reference view. A shard that cannot be read is told and left out; once mended, the same command takes it up.",
    "evaluate": "Compares the run's results with the true views in data=, beside simple baselines, and writes "
    "runs/NAME/report/index.html and metrics.json.",
    "verify": "Reads every byte of shards, results and checkpoints below PATH and names each bad row and file, and "
    "every sample that was planned and is not there. Exit status 1 if there is any. With --repair what is bad or "
    "missing of results is generated again, with further words (cluster=slurm ...) as mvdiff generate takes them.",
    "export": "Copies results below PATH into files that other programs read.",
    "doctor": "Counts parameters and estimates the peak of GPU memory, of a training step and of generation, for the "
    "settings that train and generate would be given. Needs no weights, data or GPU, and does not look at what "
    "model.pretrained says. Says which train.micro_batch fits card=.",
    "bench": "Answers one question, train, generate, data, checkpoint or scaling, by measuring with random weights and "
    "pictures of noise: samples/s, TFLOP/s, their share of a matrix product measured in the same process (mfu), "
    "memory, and the share of each stage. FLOPs are counted, not guessed. Needs neither weights nor data. "
    "scaling compares one process with bench.ranks; with cluster=SITE it sends them to the queue and waits.",
}

EXAMPLES = {
    "synth": ["mvdiff synth run=demo samples=200 heading=front-or-side --wait"],
    "pack": [
        "mvdiff pack run=mice source=pictures --wait",
        "mvdiff pack run=mice source=pictures held_out=0.2 strict=false",
        "mvdiff pack run=mice source=turntable cameras=rig --wait",
        "mvdiff pack run=album source=album cameras=single like=runs/mice/checkpoints/step-00001200",
    ],
    "train": [
        "mvdiff train run=mice data=runs/mice/shards/train cluster.tasks_per_node=2 --wait",
        "mvdiff train run=mice data=runs/mice/shards/train cluster=slurm cluster.nodes=2 --dry-run",
    ],
    "generate": [
        "mvdiff generate run=mice data=runs/mice/shards/heldout cluster=slurm cluster.workers=64",
        "mvdiff generate run=mice data=runs/mice/shards --shards 'train-00*' --reference-view all --limit 100",
    ],
    "evaluate": ["mvdiff evaluate run=mice data=runs/mice/shards/heldout --wait"],
    "verify": [
        "mvdiff verify runs/mice/shards",
        "mvdiff verify runs/mice/results --repair cluster=slurm cluster.workers=8",
    ],
    "export": ["mvdiff export runs/mice/results format=png out=pictures"],
    "bench": [
        "mvdiff bench train train.micro_batch=16 train.compile=true",
        "mvdiff bench generate generate.mixed_precision=bf16 generate.batch=16 generate.compile=true bench.peer=true",
        "mvdiff bench train model=tiny train=default --json",
        "mvdiff bench scaling train.micro_batch=16 cluster=slurm cluster.gpus_per_node=2",
    ],
    "doctor": [
        "mvdiff doctor model=zero123plus-v1.2 card=a100-40gb train.gradient_checkpointing=true",
        "mvdiff doctor model=zero123plus-v1.2-tile train.trainable=lora card=24 generate.batch=2",
    ],
}

SETTINGS = {
    "model": "mvdiff/model/settings.py:ModelSettings",
    "model.new": "mvdiff/model/settings.py:NewModel",
    "train": "mvdiff/train/settings.py:TrainSettings",
    "train.augment": "mvdiff/train/settings.py:AugmentSettings",
    "train.validation": "mvdiff/train/settings.py:ValidationSettings",
    "generate": "mvdiff/generate/settings.py:GenerateSettings",
    "evaluate": "mvdiff/evaluate/settings.py:EvaluateSettings",
    "bench": "mvdiff/bench/settings.py:BenchSettings",
    "cluster": "slurm/cluster.py:Cluster",
}
"""Where the meaning of a group's keys stands, or of those below a key: in the docstrings of the dataclass that these
become."""

OPTIONS = """\
  --json      print one JSON object on standard output and nothing else there
  --keys      explain the keys of the groups"""
JOB_OPTIONS = """\
  --dry-run   print the exact batch script (or command) and submit nothing
  --wait      stay until the job ends, showing its log"""

OWN_OPTIONS = {
    "generate": [
        "  --limit N, --ids A,B, --ids @FILE, --shards A,B, --reference-view 0,2",
        "              the same as limit=N, ids=..., shards=..., generate.reference_view=...",
    ],
    "verify": ["  --repair    generate again what is bad or missing of the result sets below PATH, and wait for it"],
}

_REQUIRED = "required: "

STATUS = "  0 done or queued, 1 the job failed, 2 the request was wrong (one line says what and how to mend it)"


def overview(version: str) -> str:
    """What ``mvdiff --help`` prints."""
    lines = [
        f"mvdiff {version}: multi-view diffusion of laboratory mice, as jobs that come back by themselves",
        "",
        "usage: mvdiff JOB [key=value ...] [--dry-run] [--wait] [--json]",
        "",
        "jobs, in the order of the data",
    ]
    lines += [f"  {name:<10}{SUMMARIES[name]}" for name in JOBS]
    lines += ["", "other commands"]
    lines += [f"  {name:<10}{SUMMARIES[name]}" for name in SUMMARIES if name not in JOBS]
    lines += [
        "",
        "first steps",
        "  mvdiff demo                 the whole way in a few minutes, no cluster needed",
        "  mvdiff train --help         one job's keys, with their defaults",
        "  mvdiff cluster new SITE     describe your cluster, by asking it",
        "  mvdiff train ... cluster=SITE --dry-run",
        "                              what would be submitted to it",
        "  mvdiff train ... then generate ...",
        "                              several jobs, queued at once",
        "",
        "exit status",
        STATUS,
    ]
    return "\n".join(lines)


def page(job: str) -> str:
    """What ``mvdiff JOB --help`` prints."""
    operand = " PATH" if job in ("verify", "export") else ""
    own = _keys(CONFIGS / f"{job}.yaml")
    defaults = _defaults(CONFIGS / f"{job}.yaml")
    if "data" in defaults:
        needed = sum(_REQUIRED in line for line in own)
        own.insert(needed, _key("data=", f"{_REQUIRED}{_values('data', defaults['data'])['path'][1]}"))
    width = max(22, *(len(f"{group}={chosen} ") for group, chosen in defaults.items()))
    groups = [f"  {f'{group}={chosen}':<{width}}of {', '.join(choices(group))}" for group, chosen in defaults.items()]
    lines = [
        f"mvdiff {job}: {SUMMARIES[job]}",
        "",
        f"usage: mvdiff {job}{operand} [key=value ...] {'[--dry-run] [--wait] ' if job in JOBS else ''}[--json]",
        "",
        *textwrap.wrap(DESCRIPTIONS[job], 100),
        "",
        "keys",
        *own,
        "",
        f"groups (mvdiff {job} --keys explains their keys; change one with GROUP.key=value)",
        *groups,
        "",
        "options",
        *([JOB_OPTIONS] if job in JOBS else []),
        *OWN_OPTIONS.get(job, ()),
        OPTIONS,
        "",
        "examples",
        *(f"  {line}" for line in EXAMPLES[job]),
        "",
        "exit status",
        STATUS,
    ]
    return "\n".join(lines)


def own_keys(job: str) -> list[str]:
    """The keys of ``job``'s own file as help lines."""
    return _keys(CONFIGS / f"{job}.yaml")


def keys(job: str, words: Sequence[str] = ()) -> str:
    """What ``mvdiff JOB --keys`` prints: every key of the job's groups, its default and its meaning.

    ``words`` such as ``model=tiny`` choose the groups' files.
    """
    asked = dict(word.split("=", 1) for word in words if "=" in word)
    lines = []
    for group, default in _defaults(CONFIGS / f"{job}.yaml").items():
        chosen = asked[group] if asked.get(group) in choices(group) else default
        for key, (value, comment) in _values(group, chosen).items():
            shown = f"{group}.{key}=" if value == "???" else f"{group}.{key}={value}"
            text = textwrap.wrap(comment or _meaning(f"{group}.{key}"), 76) or [""]
            lines.append(f"{shown:<40} {text[0]}".rstrip())
            lines += [f"{'':<40} {line}" for line in text[1:]]
        lines.append("")
    return "\n".join(lines).rstrip()


def _defaults(path: Path) -> dict[str, str]:
    """The groups that a file names in its defaults list, with the choice of each."""
    found = re.findall(r"^  - (?:optional )?(\w+): (\S+)$", path.read_text(), re.MULTILINE)
    return {group: chosen for group, chosen in found if chosen in choices(group)}


def _values(group: str, chosen: str) -> dict[str, tuple[str, str | None]]:
    """Default and comment of every key of a group's file, those of the file it builds on included.

    A key that holds others stands for them: ``new.patch`` and so on.
    """
    file = find(group, chosen)
    assert file is not None
    text = file.read_text(encoding="utf-8")
    values: dict[str, tuple[str, str | None]] = {}
    for base in re.findall(r"^  - ([\w.-]+)$", text, re.MULTILINE):
        values |= _values(group, base) if base != "_self_" else {}
    above = ""
    for indent, key, value, comment in re.findall(
        r"^((?:  )?)(\w+):(?: +([^#\s].*?))?(?: +# (.*))?$", text, re.MULTILINE
    ):
        name = f"{above}.{key}" if indent else key
        if not indent:
            above = key
            values = {known: kept for known, kept in values.items() if value == "" or not known.startswith(f"{key}.")}
        if value:
            values[name] = (value, comment or None)
    return values


def _meaning(key: str) -> str:
    """What the full ``key`` means, as the dataclass that holds it says."""
    holder, _, name = key.rpartition(".")
    return _meanings(SETTINGS[holder]).get(name, "") if holder in SETTINGS else ""


@functools.cache
def _meanings(where: str) -> dict[str, str]:
    """The line under each field of a dataclass, read from its source: importing it may be slow."""
    file, _, name = where.partition(":")
    tree = ast.parse((CONFIGS.parent / file).read_text())
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    meanings = {}
    for field, below in itertools.pairwise(kind.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(field.target, ast.Name):
            meanings[field.target.id] = inspect.cleandoc(str(ast.literal_eval(below.value))).replace("``", "")
    return meanings


def _keys(path: Path) -> list[str]:
    """The file's own keys as help lines."""
    lines = []
    for key, value, comment in re.findall(r"^(\w+): +(.*?)(?:\s+# (.*))?$", path.read_text(), re.MULTILINE):
        needed = value == "???"
        lines.append(_key(f"{key}=" if needed else f"{key}={value}", f"{_REQUIRED if needed else ''}{comment}"))
    return lines


def _key(shown: str, meaning: str) -> str:
    return f"  {shown:<30}{meaning}".rstrip()
