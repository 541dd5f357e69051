"""`mvdiff verify PATH --repair`: results that are bad or missing are generated again."""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from jobs.launch import Request, launch
from jobs.verify import told
from mvdiff.errors import InputError, counted
from mvdiff.generate.asked import Asked
from mvdiff.generate.audit import audit
from mvdiff.generate.plan import Plan, find_sets
from mvdiff.generate.repair import take_back

OF_CHECKPOINT = ("checkpoint", "rig", "size")
"""Fields of a recipe that the checkpoint decides."""


def repair(path: Path, words: Sequence[str], as_json: bool, dry_run: bool) -> int:
    """Read every result set below ``path``, take back what is bad, and generate what is missing; waits for it.

    Args:
        words: further overrides of the generation, such as ``cluster=slurm``.
        dry_run: only say what would be made again.

    Returns:
        the exit status: 0 when all that was planned is good or quarantined now.

    Raises:
        InputError: no result set there, or one that does not lie in a run folder or whose checkpoint is not known.
    """
    sets = find_sets(path)
    if not sets:
        raise InputError(f"{path} holds no result set", "give runs/NAME/results, or a set in it")
    status = 0
    for folder in sets:
        found = told(folder, audit(folder))
        if found.missing or found.flawed:
            asked = _words(folder)
            if dry_run:
                print(f"{folder}: {counted(len(found.missing), 'sample')} would be made again")
                continue
            with redirect_stdout(io.StringIO()):
                # what a generation would refuse is told before anything is unpublished
                launch(Request("generate", [*asked, *words], dry_run=True))
            take_back(folder, found.flawed)
            status = max(status, launch(Request("generate", [*asked, *words], wait=True, as_json=as_json)))
        else:
            print(f"{folder}: nothing to repair", file=sys.stderr)
    return status


def _words(folder: Path) -> list[str]:
    """What to say to ``mvdiff generate`` for the result set ``folder`` to be made, as far as it is planned."""
    asked, plan = Asked.load(folder), Plan.load(folder)
    if asked is None or folder.parent.name != "results":
        raise InputError(f"{folder} does not say how it was made", "run the mvdiff generate that made it once more")
    run = folder.parent.parent.absolute()
    recipe = {name: value for name, value in asdict(plan.recipe).items() if name not in OF_CHECKPOINT}
    recipe["guidance_interval"] = list(recipe["guidance_interval"])
    return [
        f"run={run.name}",
        f"runs={run.parent}",
        f"checkpoint={asked.checkpoint}",
        "data=null",
        f"generate.slice={plan.segments[0].slice}",
        *(f"generate.{name}={value}" for name, value in recipe.items()),
    ]
