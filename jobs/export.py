"""`mvdiff export`: results as files that other programs read."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.job import Context, JobFailed
from jobs.runfolder import Run
from mvdiff.errors import InputError, one_line
from mvdiff.generate.export import FORMS, export
from mvdiff.generate.results import ResultStore

ARRAY = False


def check(config: DictConfig, run: Run | None) -> None:
    """That there are results, and a format to write."""
    for key in ("path", "out"):
        config[key] = str(Path(config[key]).expanduser().absolute())
    if (Path(config.path) / "results").is_dir():
        config.path = str(Path(config.path) / "results")
    if config.format not in FORMS:
        raise InputError(f"format={config.format} is unknown", f"choose one of {', '.join(FORMS)}")
    ResultStore(Path(config.path))


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """What is there already is found sample by sample."""
    return None


def work(config: DictConfig, context: Context) -> str:
    """Write every sample that is not there yet."""
    done = export(ResultStore(Path(config.path)), Path(config.out), config.format)
    for sample_id, why in done.refused.items():
        print(one_line(f"{sample_id}: {why}"), flush=True)
    if done.refused:
        raise JobFailed(f"{len(done.refused)} of {done.written + done.kept + len(done.refused)} samples not exported")
    return "done"


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """Where the files are."""
    return {"out": config.out, "samples": len(ResultStore(Path(config.path)))}
