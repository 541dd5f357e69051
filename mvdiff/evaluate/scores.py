"""Scores of many samples: kept a sample, summed up for all, written as JSON."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvdiff.evaluate.metrics import METRICS, Metric, PerView, mean_over

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
    methods: dict[str, dict[str, PerView]]
    """Method (``model``, ``truth``, a baseline) -> metric -> score a view [6]."""
    consistency: dict[str, dict[str, float]]
    """``model`` and ``truth`` -> what ``consistency`` returns."""
    nearest: str | None
    """Id of the nearest training sample."""

    def mean(self, metric: str, left_out: int | None = None, method: str = MODEL) -> float:
        """Mean of ``metric`` over the views, without view ``left_out`` if given."""
        return mean_over(self.methods[method][metric], left_out)

    def as_json(self, reference_view: int) -> dict[str, Any]:
        """Plain types; what is not a number is null."""
        return {
            "sample_id": self.sample_id,
            "recording": self.recording,
            "nearest": self.nearest,
            "consistency": {method: _plain(values) for method, values in self.consistency.items()},
            "methods": {
                method: {
                    name: {
                        "all_views": number(mean_over(values)),
                        "novel_views": number(mean_over(values, reference_view)),
                        "per_view": [number(value) for value in values],
                    }
                    for name, values in metrics.items()
                }
                for method, metrics in self.methods.items()
            },
        }


@dataclass(frozen=True)
class Figure:
    """Mean of one metric over samples."""

    all_views: float
    novel_views: float
    """Without the view that was the model's input."""
    per_view: tuple[float, ...]


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

        def plain(figure: Figure) -> dict[str, Any]:
            return {
                "all_views": number(figure.all_views),
                "novel_views": number(figure.novel_views),
                "per_view": [number(value) for value in figure.per_view],
            }

        return {
            "samples": self.samples,
            "reference_view": self.reference_view,
            "headline": {name: plain(figure) for name, figure in self.headline.items()},
            "methods": {
                method: {name: plain(figure) for name, figure in figures.items()}
                for method, figures in self.methods.items()
            },
            "consistency": {method: _plain(values) for method, values in self.consistency.items()},
            "missing": self.missing,
            "unexpected": self.unexpected,
            "unreadable": self.unreadable,
            "shared_recordings": self.shared_recordings,
            "training_samples": self.training_samples,
        }


def figures(samples: list[SampleScores], reference_view: int) -> dict[str, dict[str, Figure]]:
    """Means over ``samples`` for every method and metric; views that have no number are left out of a mean."""
    methods: dict[str, dict[str, Figure]] = {}
    for method in samples[0].methods:
        of_method = methods[method] = {}
        for metric in METRICS:
            values = np.stack([sample.methods[method][metric.name] for sample in samples])  # [N 6]
            of_method[metric.name] = Figure(
                mean_over(values),
                mean_over(values, reference_view),
                tuple(_mean(column) for column in values.T),
            )
    return methods


def consistency_means(samples: list[SampleScores]) -> dict[str, dict[str, float]]:
    """Means over ``samples`` of every figure of consistency, for the model and for the truth."""
    return {
        method: {
            name: _mean(sample.consistency[method][name] for sample in samples)
            for name in samples[0].consistency[method]
        }
        for method in samples[0].consistency
    }


def number(value: float) -> float | None:
    """``value`` as JSON knows it: five digits behind the point, null for what is not a number."""
    return None if math.isnan(value) else round(float(value), 5)


def shown(value: float, metric: Metric) -> str:
    """``value`` as people read it: ``18.20 dB``, ``0.713``, and a dash for what is not a number."""
    if math.isnan(value):
        return "–"
    return f"{value:.{metric.digits}f}" + (f" {metric.unit}" if metric.unit else "")


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number(value) for name, value in values.items()}


def _mean(values: Iterable[float]) -> float:
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
