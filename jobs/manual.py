"""Help texts: what a manual page shows on its first screen, with the keys read from the configuration itself.

Reads the YAML files as text, so that help is shown without loading Hydra.
"""

import re
import textwrap
from pathlib import Path

import configs

CONFIGS = Path(configs.__file__).parent

SUMMARIES = {
    "synth": "render procedural mice into shards",
    "pack": "pack folders of six-view pictures into shards",
    "train": "fine-tune the multi-view model on shards",
    "generate": "generate six views for every picture of a data set, each once",
    "evaluate": "score generated views against the truth and write a report",
    "verify": "check every byte of shards or results against its checksum",
    "export": "write results as .npy, PNG or FaceLift folders",
    "demo": "the whole way on this machine: synth, train, generate, evaluate",
    "testbed": "a SLURM of four virtual nodes on this one machine, for trying and testing",
}

DESCRIPTIONS = {
    "synth": "Renders articulated mice, seen by the six cameras of a rig, and publishes them as HDF5 shards in "
    "runs/NAME/shards/train and runs/NAME/shards/heldout. Sample i is a pure function of the seed and i.",
    "pack": "Imports sample folders (images/cam_000.png ... and opencv_cameras.json) into HDF5 shards in "
    "runs/NAME/shards/train and runs/NAME/shards/heldout, split by recording. Everything wrong is told before anything "
    "is written.",
    "train": "Trains on the shards of data= and publishes checkpoints in runs/NAME/checkpoints, in diffusers' folder "
    "layout. A job that is warned, preempted or out of time saves, returns to the queue and goes on where it was; the "
    "same command again continues or says that all is done.",
    "generate": "Takes the newest checkpoint of the run and generates six views for every sample of data= with "
    "cluster.workers workers, which share the work by leases: workers may be killed, added or run twice. Results go to "
    "runs/NAME/results, one set for each checkpoint, configuration and seed.",
    "evaluate": "Compares the run's results with the true views in data=, beside simple baselines, and writes "
    "runs/NAME/report/index.html and metrics.json.",
    "verify": "Reads every row of every shard below PATH and names each bad one. Exit status 1 if there is any.",
    "export": "Copies results below PATH into files that other programs read.",
}

EXAMPLES = {
    "synth": ["mvdiff synth run=demo samples=200 heading=front-or-side --wait"],
    "pack": [
        "mvdiff pack run=mice source=pictures --wait",
        "mvdiff pack run=mice source=pictures split.held_out=0.2 strict=false",
    ],
    "train": [
        "mvdiff train run=mice data=runs/mice/shards/train cluster.tasks_per_node=2 --wait",
        "mvdiff train run=mice data=runs/mice/shards/train cluster=slurm cluster.nodes=2 --dry-run",
    ],
    "generate": ["mvdiff generate run=mice data=runs/mice/shards/heldout cluster=slurm cluster.workers=64"],
    "evaluate": ["mvdiff evaluate run=mice data=runs/mice/shards/heldout --wait"],
    "verify": ["mvdiff verify runs/mice/shards"],
    "export": ["mvdiff export runs/mice/results format=png out=pictures"],
}

OPTIONS = """\
  --dry-run   print the exact batch script (or command) and submit nothing
  --wait      stay until the job ends, showing its log
  --json      print one JSON object on standard output and nothing else there"""

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
    lines += [f"  {name:<10}{SUMMARIES[name]}" for name in SUMMARIES if name not in ("demo", "testbed")]
    lines += ["", "other commands"]
    lines += [f"  {name:<10}{SUMMARIES[name]}" for name in ("demo", "testbed")]
    lines += [
        "",
        "first steps",
        "  mvdiff demo                 the whole way in a few minutes, no cluster needed",
        "  mvdiff train --help         one job's keys, with their defaults",
        "  mvdiff train ... cluster=slurm --dry-run",
        "                              what would be submitted to SLURM",
        "",
        "exit status",
        STATUS,
    ]
    return "\n".join(lines)


def page(job: str) -> str:
    """What ``mvdiff JOB --help`` prints."""
    operand = " PATH" if job in ("verify", "export") else ""
    own, groups = _keys(CONFIGS / f"{job}.yaml")
    lines = [
        f"mvdiff {job}: {SUMMARIES[job]}",
        "",
        f"usage: mvdiff {job}{operand} [key=value ...] [--dry-run] [--wait] [--json]",
        "",
        *textwrap.wrap(DESCRIPTIONS[job], 100),
        "",
        "keys",
        *own,
        "",
        "groups (their keys lie in configs/GROUP/NAME.yaml; change one with GROUP.key=value)",
        *groups,
        "",
        "options",
        OPTIONS,
        "",
        "examples",
        *(f"  {line}" for line in EXAMPLES[job]),
        "",
        "exit status",
        STATUS,
    ]
    return "\n".join(lines)


def _keys(path: Path) -> tuple[list[str], list[str]]:
    """The file's own keys as help lines, and its groups with their choices."""
    own: list[str] = []
    groups: list[str] = []
    inside_defaults = False
    parent = ""
    for line in path.read_text().splitlines():
        if line.startswith("defaults:"):
            inside_defaults = True
            continue
        if inside_defaults and line.startswith("  - "):
            found = re.match(r"  - (?:optional )?(\w+): (\S+)", line)
            if found:
                group, chosen = found.groups()
                names = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
                groups.append(f"  {f'{group}={chosen}':<22}of {', '.join(names)}")
            continue
        found = re.match(r"( *)(\w+):(?: +(.*?))?(?:\s+# (.*))?$", line)
        if not found or line.startswith("#"):
            continue
        inside_defaults = False
        indent, key, value, comment = found.groups()
        if not indent:
            parent = key
        if not value:
            continue
        name = key if not indent else f"{parent}.{key}"
        shown = f"{name}=" if value == "???" else f"{name}={value}"
        own.append(f"  {shown:<30}{comment or ''}".rstrip())
    return own, groups
