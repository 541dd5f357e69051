"""What a process loads before it works: every rank of every start and every worker of an array pays for it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.runfolder import source_root
from tests.cluster.lab import SMALL

NEVER = {"matplotlib", "pandas", "scipy", "sklearn", "torchmetrics", "torchvision", "triton"}
"""For metrics, plots and models that no job of ours has."""
BENCH = {"mvdiff.bench", "jobs.bench", "jobs.doctor", "jobs.demo"}
SCORING = {"mvdiff.evaluate.evaluation", "mvdiff.evaluate.report"}


def loaded(code: str, folder: Path) -> tuple[set[str], int]:
    """What a process of its own holds after ``code``: its modules, and how many objects the collector passes over."""
    told = folder / "told"
    look = "import gc, pathlib, sys; told = [str(gc.get_freeze_count()), *sys.modules]"
    write = f"pathlib.Path({str(told)!r}).write_text(' '.join(told))"
    environment = {**os.environ, "PYTHONPATH": str(source_root())}
    script = f"{code}\n{look}\n{write}"
    subprocess.run([sys.executable, "-P", "-c", script], cwd=folder, env=environment, check=True, timeout=120)
    count, *names = told.read_text().split()
    return set(names), int(count)


def job(words: Sequence[str], folder: Path) -> tuple[set[str], int]:
    return loaded(f"from jobs.cli import main; assert main({list(words)!r}) == 0", folder)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    runs = f"runs={folder}/runs"
    assert main(["synth", "run=lab", runs, "samples=6", "size=64", "held_out=2", "cluster=here"]) == 0
    return folder


def test_a_command_that_only_looks_loads_no_numbers(tmp_path):
    names, _ = loaded("import jobs.cli", tmp_path)
    assert not names & {"torch", "numpy", "h5py", "hydra", "submitit", "diffusers", "transformers", "mvdiff.shard"}


def test_training_and_generation_load_what_they_use_and_no_more(lab):
    data = "data=runs/lab/shards/train"
    names, passed_over = job(
        ["train", "run=lab", data, "train=demo", "train.steps=1", "train.batch=4", "train.validation.every=0", *SMALL,
         "cluster=here"], lab,
    )  # fmt: skip
    assert "mvdiff.train.trainer" in names
    assert sorted(names & (NEVER | BENCH | SCORING)) == []
    assert passed_over > 100_000, "what torch and diffusers made is looked through for garbage"

    names, passed_over = job(["generate", "run=lab", data, "generate.steps=1", "limit=1", "cluster=here"], lab)
    assert "mvdiff.generate.worker" in names
    assert sorted(names & (NEVER | BENCH | SCORING)) == []
    assert not {name for name in names if name.startswith(("mvdiff.train.trainer", "tensorboard"))}
    assert passed_over > 100_000

    names, _ = job(["evaluate", "run=lab", data, "cluster=here"], lab)
    assert "mvdiff.evaluate.evaluation" in names
    assert sorted(names & (NEVER | BENCH | {"torch", "diffusers"})) == []
