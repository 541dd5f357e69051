"""`mvdiff pack`: folders of pictures as shards."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from jobs.compose import part
from jobs.job import Context
from jobs.runfolder import Run
from mvdiff.errors import one_line
from mvdiff.pack import PackSettings, is_packed, pack, survey_for
from mvdiff.portrait import Studio

ARRAY = False


def check(config: DictConfig, run: Run | None) -> None:
    """Every sample of the source, as packing will read it."""
    assert run is not None
    config.source = str(Path(config.source).expanduser().absolute())
    if config.like is not None:
        config.like = str(Path(config.like).expanduser().absolute())
        studio = Studio.of(Path(config.like))
        config.size, config.rig = studio.size, studio.rig.text
    settings = part(PackSettings, config)
    source = Path(config.source)
    if is_packed(source, run.shards, settings):
        return
    found = survey_for(source, settings)
    for sample, why in found.refused:
        print(one_line(f"left out: {sample}: {why}"), file=sys.stderr)


def prepare(config: DictConfig, run: Run | None) -> str | None:
    """Whether all of the source is there."""
    assert run is not None
    if is_packed(Path(config.source), run.shards, part(PackSettings, config)):
        return "everything is packed"
    return None


def work(config: DictConfig, context: Context) -> str:
    """Write the shards."""
    assert context.run
    report = pack(Path(config.source), context.run.shards, part(PackSettings, config), context.should_stop)
    if report is None:
        return "stopped"
    for remark in report.remarks:
        print(remark, flush=True)
    return "done"


def figures(config: DictConfig, run: Run | None) -> dict[str, Any]:
    """Where the shards are, and how many samples each split has."""
    assert run is not None
    report = pack(Path(config.source), run.shards, part(PackSettings, config))
    assert report is not None
    return {
        "shards": str(run.shards),
        **({"single": report.single} if config.like else {"train": report.train, "heldout": report.heldout}),
        "refused": len(report.refused),
    }
