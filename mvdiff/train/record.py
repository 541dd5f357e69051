"""The record of what a checkpoint is of: the settings and the data that decide what a run computes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvdiff.errors import InputError
from mvdiff.model.origin import origin
from mvdiff.model.settings import ModelSettings
from mvdiff.shard import ShardDataset
from mvdiff.train.checkpoint import TRAINING
from mvdiff.train.fitness import needs_origin
from mvdiff.train.settings import FREE, TrainSettings
from mvdiff.train.sources import Sources

FILE = f"{TRAINING}/train.json"

Record = dict[str, dict[str, Any]]


def describe(settings: TrainSettings, model_settings: ModelSettings, sources: Sources, newest: Path | None) -> Record:
    """The record of a run, as plain JSON values.

    The data are known by a hash of every sample's id and checksum, whatever shards they lie in, pretrained weights by
    one of their files. Raises ``InputError`` where the latter are missing or do not fit, unless the run goes on from
    the checkpoint ``newest``, which holds all that it needs.
    """
    try:
        source = origin(model_settings).pretrained
        pretrained = {"kind": source.kind, "xxh3": source.fingerprint()} if source else {}
    except InputError:
        if newest is None or needs_origin(settings, model_settings):
            raise
        pretrained = json.loads((newest / FILE).read_text(encoding="utf-8"))["pretrained"]
    return {
        "train": asdict(settings),
        "model": model_settings.written(),
        "pretrained": pretrained,
        "data": _known(sources.training),
        "validation": _known(sources.validation),
        "prior": _known(sources.prior),
    }


def _known(dataset: ShardDataset | None) -> dict[str, Any]:
    if dataset is None:
        return {}
    return {"samples": len(dataset), "rig": dataset.rig, "xxh3": dataset.index.fingerprint()}


def refuse_another(checkpoint: Path, asked: Record) -> None:
    """Raise an ``InputError`` with the differences if ``checkpoint`` belongs to another run than ``asked``."""
    stored = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
    here, there = _flat(asked), _flat(stored)
    differences = [
        f"{key} is {there.get(key, 'absent')} there, {here.get(key, 'absent')} here"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if differences:
        raise InputError(
            f"{checkpoint} is of another run: {'; '.join(differences)}",
            "ask for what it was started with, or train in a fresh run folder",
        )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Every value by its full key (``train.augment.flip``), but for those that may differ."""

    def walk(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", value

    # weights are known by what they are, wherever they lie
    free = {"model.pretrained", *(f"train.{key}" for key in FREE)}
    return {key: value for key, value in walk(record, "") if key not in free}
