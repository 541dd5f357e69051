"""`mvdiff evaluate`: score generated views against the truth."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.compose import settings
from jobs.job import Context
from jobs.overview import result_sets
from jobs.preflight import Findings
from jobs.runfolder import Run, short
from jobs.shards import check_coming, check_shards
from mvdiff.errors import InputError
from mvdiff.evaluate.settings import EvaluateSettings
from mvdiff.generate.plan import Plan
from mvdiff.generate.results import ResultStore
from mvdiff.shard import ShardIndex

ARRAY = False


def check(config: DictConfig, run: Run | None) -> None:
    """Results, truth, and the training split where there is one."""
    assert run is not None
    findings = Findings()
    findings.look(partial(settings, EvaluateSettings, config.evaluate, "evaluate"))
    truth = findings.look(partial(check_shards, config.data))
    if config.results is None:
        config.results = findings.look(lambda: str(_asked_last(run)))
    findings.refuse()
    assert truth is not None
    truth.refuse_single()
    store = ResultStore(Path(config.results).expanduser().absolute())
    config.results = str(store.path)
    if not any(sample_id in store for sample_id in truth.ids):
        raise InputError(
            f"no sample of {config.data.path} has a result in {store.path}",
            "generate from these shards first, or name another result set in results=",
        )
    if config.train_data is None and (run.shards / "train").is_dir():
        config.train_data = str(run.shards / "train")
    if config.train_data is not None:
        config.train_data = str(Path(config.train_data).expanduser().absolute())
        ShardIndex.scan(Path(config.train_data)).refuse_single()


def check_ahead(config: DictConfig, run: Run, coming: Sequence[Path]) -> None:
    """Settings and truth, and results where no job ahead makes them."""
    settings(EvaluateSettings, config.evaluate, "evaluate")
    check_coming(config.data, coming)
    if config.results is None and run.results not in coming:
        _asked_last(run)


def chosen(config: DictConfig) -> dict[str, Any]:
    """The result set that is scored."""
    return {"results": config.results} if config.results else {}


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Whether the report there is of just these results, truth and settings."""
    assert run is not None
    if _stamp(run) == _asked(config):
        return "the report is up to date"
    return None


def work(config: DictConfig, context: Context) -> str:
    """Score and write the report."""
    from mvdiff.durable import write_json
    from mvdiff.evaluate.evaluation import evaluate

    assert context.run
    asked = _asked(config)
    train = config.train_data and Path(config.train_data)
    evaluate(
        Path(config.results),
        Path(config.data.path),
        train,
        context.run.report,
        settings=settings(EvaluateSettings, config.evaluate, "evaluate"),
        name=context.run.name,
    )
    write_json(context.run.report / "request.json", asked)
    return "done"


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """The headline, and where the report is."""
    assert run is not None
    summary = json.loads((run.report / "metrics.json").read_text())["summary"]
    found = {name: figure["all_views"] for name, figure in summary["headline"].items()}
    return {"report": short(run.report / "index.html"), **found}


def _asked(config: DictConfig) -> dict[str, Any]:
    """What decides the report."""
    return {
        "results": _content(config.results),
        "truth": _content(config.data.path),
        "train": config.train_data and _content(config.train_data),
        "settings": dict(config.evaluate),
    }


def _content(path: str) -> dict[str, str]:
    """Shards by where they lie and what they hold."""
    return {"path": path, "xxh3": ShardIndex.scan(Path(path)).fingerprint()}


def _stamp(run: Run) -> Any:
    try:
        return json.loads((run.report / "request.json").read_text())
    except FileNotFoundError:
        return None


def _asked_last(run: Run) -> Path:
    """The run's only result set, or of several the one asked for last, which is told."""
    sets = result_sets(run)
    if not sets:
        raise InputError(
            f"run {run.name} has no results in {run.results}",
            f"generate first (mvdiff generate run={run.name} data=...), or give results=FOLDER",
        )
    if len(sets) > 1:
        print(
            f"mvdiff evaluate: takes {short(sets[0])} ({Plan.recipe_of(sets[0]).described()}), asked for last of "
            f"{len(sets)} result sets; results=FOLDER takes another, mvdiff status {run.name} shows them",
            file=sys.stderr,
            flush=True,
        )
    return sets[0]
