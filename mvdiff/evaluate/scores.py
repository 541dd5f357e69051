"""Scores of many samples: kept a sample, summed up for all, written as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvdiff.evaluate.metrics import METRICS, Figure, Metric, mean

MODEL = "model"
TRUTH = "truth"
BASELINES = {
    "nearest": "nearest training sample",
    "mean": "training mean",
    "input": "copied input",
    "blank": "blank white image",
}
"""Baselines from the hardest to the easiest to beat, as people call them."""
HEADLINE = ("foreground_iou", "foreground_psnr", "psnr")

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class SampleScores:
    """Everything measured on one sample."""

    sample_id: str
    recording: str
    methods: dict[str, dict[str, Figure]]
    """Method (``model``, ``truth``, a baseline) -> metric -> figure."""
    consistency: dict[str, dict[str, float]]
    """``model`` and ``truth`` -> what ``consistency`` returns."""
    nearest: str | None
    """Id of the nearest training sample."""

    def as_json(self) -> dict[str, Any]:
        """Plain types; what is not a number is null."""
        return {
            "sample_id": self.sample_id,
            "recording": self.recording,
            "nearest": self.nearest,
            "consistency": _numbers(self.consistency),
            "methods": _figures(self.methods),
        }


@dataclass(frozen=True)
class Summary:
    """What an evaluation found."""

    samples: int
    """How many samples were scored."""
    reference_view: int
    """The view that was the model's input."""
    methods: dict[str, dict[str, Figure]]
    """Method -> metric -> figure."""
    consistency: dict[str, dict[str, float]]
    """``model`` and ``truth`` -> means over samples."""
    missing: dict[str, str]
    """Samples of the truth that have no result, each with the reason."""
    unexpected: list[str]
    """Results that have no truth."""
    unreadable: dict[str, str]
    """Samples whose result, truth or training row is damaged, each with the reason."""
    shared_recordings: list[str]
    """Recordings that the training split holds as well."""
    training_samples: int
    """How many training samples the baselines saw."""

    @property
    def headline(self) -> dict[str, Figure]:
        """Foreground IoU, foreground PSNR and PSNR of the model."""
        return {name: self.methods[MODEL][name] for name in HEADLINE}

    def best_baseline(self, metric: str, novel: bool = False) -> str:
        """Name of the baseline that is best at ``metric``."""
        sign = 1 if BY_NAME[metric].higher_is_better else -1
        known = [name for name in BASELINES if name in self.methods]

        def rank(name: str) -> float:
            figure = self.methods[name][metric]
            value = figure.novel_views if novel else figure.all_views
            return -math.inf if math.isnan(value) else sign * value

        return max(known, key=rank)

    def lines(self) -> list[str]:
        """The three headline figures for a terminal, a line each."""
        lines = []
        for name, figure in self.headline.items():
            metric, best = BY_NAME[name], self.best_baseline(name)
            beside = shown(self.methods[best][name].all_views, metric)
            lines.append(
                f"{metric.title:<15}  {shown(figure.all_views, metric):>8}   novel views "
                f"{shown(figure.novel_views, metric)}; best baseline {beside} ({BASELINES[best]})"
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """Plain types; what is not a number is null."""
        return {
            "samples": self.samples,
            "reference_view": self.reference_view,
            "headline": _figures({MODEL: self.headline})[MODEL],
            "methods": _figures(self.methods),
            "consistency": _numbers(self.consistency),
            "missing": self.missing,
            "unexpected": self.unexpected,
            "unreadable": self.unreadable,
            "shared_recordings": self.shared_recordings,
            "training_samples": self.training_samples,
        }


def figures(samples: list[SampleScores]) -> dict[str, dict[str, Figure]]:
    """Means over ``samples`` for every method and metric; what is not a number is left out of a mean."""
    methods: dict[str, dict[str, Figure]] = {}
    for method in samples[0].methods:
        methods[method] = {}
        for metric in METRICS:
            of_samples = [sample.methods[method][metric.name] for sample in samples]
            methods[method][metric.name] = Figure(
                mean(figure.all_views for figure in of_samples),
                mean(figure.novel_views for figure in of_samples),
                tuple(mean(views) for views in zip(*(figure.per_view for figure in of_samples), strict=True)),
            )
    return methods


def consistency_means(samples: list[SampleScores]) -> dict[str, dict[str, float]]:
    """Means over ``samples`` of every figure of consistency, for the model and for the truth."""
    return {
        method: {name: mean(sample.consistency[method][name] for sample in samples) for name in names}
        for method, names in samples[0].consistency.items()
    }


def shown(value: float, metric: Metric) -> str:
    """``value`` as people read it: ``18.20 dB``, ``0.713``, and a dash for what is not a number."""
    if math.isnan(value):
        return "–"
    return f"{value:.{metric.digits}f}" + (f" {metric.unit}" if metric.unit else "")


def _number(value: float) -> float | None:
    """``value`` as JSON knows it: five digits behind the point, null for what is not a number."""
    return None if math.isnan(value) else round(float(value), 5)


def _numbers(methods: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    return {method: {name: _number(value) for name, value in values.items()} for method, values in methods.items()}


def _figures(methods: Mapping[str, Mapping[str, Figure]]) -> dict[str, dict[str, Any]]:
    return {
        method: {
            name: {
                "all_views": _number(figure.all_views),
                "novel_views": _number(figure.novel_views),
                "per_view": [_number(value) for value in figure.per_view],
            }
            for name, figure in of_method.items()
        }
        for method, of_method in methods.items()
    }
