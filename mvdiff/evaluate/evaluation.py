"""Score a result set against the truth and publish the report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvdiff.durable import write_json
from mvdiff.errors import InputError
from mvdiff.evaluate import baselines
from mvdiff.evaluate.baselines import TrainingSplit
from mvdiff.evaluate.consistency import consistency
from mvdiff.evaluate.foreground import foreground, true_foreground
from mvdiff.evaluate.metrics import scores
from mvdiff.evaluate.publication import Publication
from mvdiff.evaluate.report import Report, write_report
from mvdiff.evaluate.scores import MODEL, TRUTH, SampleScores, Summary, consistency_means, figures
from mvdiff.evaluate.settings import EvaluateSettings
from mvdiff.evaluate.sheet import write_sheet
from mvdiff.generate.plan import SET_FILE
from mvdiff.generate.results import ResultStore
from mvdiff.generate.status import status
from mvdiff.progress import tracked
from mvdiff.rig import VIEWS, angle_between, readable
from mvdiff.shard import CorruptRow, DamagedShard, Sample, ShardDataset

_ANGLE_TOLERANCE = 1.0


def evaluate(
    results: Path, truth: Path, train: Path | None, out: Path, *, settings: EvaluateSettings, name: str = ""
) -> Summary:
    """Score the result set ``results`` against the shards ``truth`` and publish a report in the folder ``out``.

    ``train`` (shards of the training split) gives two baselines more: its mean and its nearest sample. Samples are
    read one at a time. A sample without a result, a result without a truth and a damaged row are named in the report
    and cost nothing else. ``out/index.html`` appears last, when all it shows is there; ``out/metrics.json`` holds
    every number. One evaluation writes a given folder at a time. ``name`` stands in the report's title.

    Raises ``InputError`` when nothing can be scored, or results, truth and training split do not fit together.
    """
    store, data = ResultStore(results), ShardDataset(truth)
    data.index.refuse_single()
    attributes = store.attributes()
    reference = int(attributes.get("reference_view", 0))
    if not 0 <= reference < VIEWS:
        raise InputError(f"{results} names view {reference} as its input", f"it must be 0 to {VIEWS - 1}")
    expected = set(data.ids)
    scored_ids = [number for number, sample_id in enumerate(data.ids) if sample_id in store]
    if not scored_ids:
        raise InputError(
            f"no sample of {truth} has a result in {results}",
            "generate from these shards first, or name another result set",
        )
    training, leaked = None, []
    if train is not None:
        train_data = ShardDataset(train)
        train_data.index.refuse_single()
        if (train_data.size, train_data.rig) != (data.size, data.rig):
            raise InputError(
                f"{train} has views of {train_data.size} pixels by rig {readable(train_data.rig)}, "
                f"{truth} of {data.size} by {readable(data.rig)}",
                "pack both alike",
            )
        leaked = baselines.shared(data.recordings, train_data.recordings)
        training = TrainingSplit(train_data, reference, settings.train_samples)

    unreadable = dict(training.unreadable) if training else {}
    samples: list[SampleScores] = []
    with Publication(out) as publication:
        for sample, views in _pairs(store, data, scored_ids, unreadable):
            score = score_sample(sample, views, training, reference)
            sheet = publication.folder / f"{len(samples):06d}.webp"
            write_sheet(sheet, sample.views[reference], sample.views, views, settings.tile)
            samples.append(score)
            azimuth, elevation = sample.azimuth, sample.elevation
        if not samples:
            first = next(unreadable[data.ids[number]] for number in scored_ids)
            raise InputError(f"no sample of {truth} and {results} could be read", f"generate or pack again ({first})")
        summary = Summary(
            len(samples),
            reference,
            figures(samples),
            consistency_means(samples),
            _missing(store, [sample_id for sample_id in data.ids if sample_id not in store]),
            [sample_id for sample_id in store.ids() if sample_id not in expected],
            unreadable,
            leaked,
            len(training) if training else 0,
        )
        report = Report(
            summary, samples, [float(a) for a in azimuth], [float(e) for e in elevation], attributes,
            {"results": str(store.path), "truth": str(truth), "training split": str(train) if train else "not given"},
            settings, name,
        )  # fmt: skip
        index = write_report(report, publication)
        write_json(out / "metrics.json", _as_json(report, publication.name))
        publication.publish("index.html", index)
    return summary


def score_sample(
    sample: Sample, views: NDArray[np.uint8], training: TrainingSplit | None, reference_view: int
) -> SampleScores:
    """Scores of ``views`` uint8 [6, H, W, 3] against the true ``sample``, beside every baseline's."""
    picture = sample.views[reference_view]
    methods = {MODEL: views, TRUTH: sample.views}
    nearest = None
    if training is not None:
        nearest, methods["nearest"] = training.nearest(picture)
        methods["mean"] = training.mean
    methods["input"] = baselines.copied(picture)
    methods["blank"] = baselines.blank(sample.size)
    true_masks = true_foreground(sample.views, sample.alpha)
    masks = {name: foreground(of_method) for name, of_method in methods.items()}
    return SampleScores(
        sample.sample_id,
        sample.recording,
        {
            name: scores(of_method, masks[name], sample.views, true_masks, reference_view)
            for name, of_method in methods.items()
        },
        {name: consistency(methods[name], masks[name], sample.w2c, sample.intrinsics) for name in (MODEL, TRUTH)},
        nearest,
    )  # fmt: skip


def _pairs(
    store: ResultStore, data: ShardDataset, numbers: list[int], unreadable: dict[str, str]
) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    """True samples with their generated views; damaged rows go to ``unreadable``."""
    for number in tracked(numbers, "evaluate", len(numbers)):
        sample_id = data.ids[number]
        try:
            sample, result = data[number], store.sample(sample_id)
        except (CorruptRow, DamagedShard) as error:
            unreadable[sample_id] = str(error)
            continue
        if result.size != sample.size:
            raise InputError(
                f"sample {sample_id} has a result of {result.size} pixels and a truth of {sample.size}",
                "pack the truth at the size of the results",
            )
        apart = np.maximum(
            angle_between(result.azimuth, sample.azimuth), np.abs(result.elevation - sample.elevation)
        )  # fmt: skip
        if np.any(apart > _ANGLE_TOLERANCE):
            view = int(apart.argmax())
            raise InputError(
                f"sample {sample_id}: view {view} of the result is {apart[view]:.0f} degrees from the truth's",
                "evaluate against the shards that the results were generated from",
            )
        yield sample, result.views


def _missing(store: ResultStore, ids: list[str]) -> dict[str, str]:
    """Why each of ``ids`` has no result."""
    if not ids:
        return {}
    reasons = status(store.path).reasons if (store.path / SET_FILE).exists() else {}
    return {sample_id: reasons.get(sample_id, "not generated") for sample_id in ids}


def _as_json(report: Report, folder: str) -> dict[str, Any]:
    return {
        "summary": report.summary.as_json(),
        "provenance": report.provenance(),
        "samples": [
            {**sample.as_json(), "sheet": f"{folder}/{number:06d}.webp"} for number, sample in enumerate(report.samples)
        ],
    }
