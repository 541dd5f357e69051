"""The report as static HTML: what was found, beside what it has to beat, and how to read it."""

import math
import platform
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mvdiff.evaluate.foreground import WHITE_DISTANCE
from mvdiff.evaluate.metrics import METRICS
from mvdiff.evaluate.plot import histogram
from mvdiff.evaluate.publication import Publication
from mvdiff.evaluate.scores import BASELINES, BY_NAME, HEADLINE, MODEL, TRUTH, SampleScores, Summary, shown
from mvdiff.evaluate.settings import EvaluateSettings

_NAMES_SHOWN = 50
_PACKAGES = ("mvdiff", "numpy", "h5py", "pillow")


@dataclass(frozen=True)
class Report:
    """All that a report shows."""

    summary: Summary
    samples: list[SampleScores]
    azimuth: list[float]
    elevation: list[float]
    """Degrees, of the six views."""
    attributes: dict[str, Any]
    """What the results say about their making."""
    paths: dict[str, str]
    """What was read."""
    settings: EvaluateSettings
    name: str
    """What is reported on; may be empty."""

    def provenance(self) -> dict[str, str]:
        """Where the figures come from, in the order in which people ask."""
        made = {name.replace("_", " "): str(value) for name, value in sorted(self.attributes.items())}
        versions = ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PACKAGES)]
        )
        when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        return {**made, **self.paths, "evaluated": when, "evaluated with": versions}


@dataclass(frozen=True)
class _Card:
    """A sample as the page shows it."""

    sample: SampleScores
    number: int
    """Its contact sheet is NUMBER.webp."""
    rank: int
    """1 is the best."""

    @property
    def sheet(self) -> str:
        """File name of the contact sheet: never made from the id."""
        return f"{self.number:06d}.webp"


def write_report(report: Report, publication: Publication) -> str:
    """Add the report's further pages to ``publication``, seal it, and return the text of ``index.html``.

    Ids and attributes are escaped wherever they stand. The page loads nothing from elsewhere and runs no script.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda value, name: shown(value, BY_NAME[name])
    ranked = _ranked(report)
    pages = [ranked[i : i + report.settings.page] for i in range(0, len(ranked), report.settings.page)]
    common = {
        "report": report,
        "summary": report.summary,
        "metrics": METRICS,
        "tile": report.settings.tile,
        "page_count": len(pages),
        "rows": {
            MODEL: "model",
            **{name: title for name, title in BASELINES.items() if name in report.summary.methods},
        },
    }
    further = environment.get_template("samples.html.j2")
    for number, cards in enumerate(pages[1:], 2):
        text = further.render(**common, cards=cards, page=number, files="", index="../index.html")
        (publication.folder / f"page-{number}.html").write_text(text, encoding="utf-8")
    name = publication.seal()
    return environment.get_template("report.html.j2").render(
        **common,
        cards=pages[0],
        page=1,
        files=f"{name}/",
        index="index.html",
        verdicts=_verdicts(report.summary),
        best=_best(report.summary),
        chosen=_chosen(ranked),
        plots=_plots(report),
        provenance=report.provenance(),
        by_name=BY_NAME,
        headline=HEADLINE,
        baselines=BASELINES,
        truth=TRUTH,
        names_shown=_NAMES_SHOWN,
        white_distance=WHITE_DISTANCE,
    )


def _ranked(report: Report) -> list[_Card]:
    """Samples from the highest foreground IoU of the novel views to the lowest."""
    order = sorted(
        range(len(report.samples)), key=lambda i: -report.samples[i].methods[MODEL]["foreground_iou"].novel_views
    )  # fmt: skip
    return [_Card(report.samples[i], i, rank) for rank, i in enumerate(order, 1)]


def _chosen(ranked: list[_Card]) -> list[tuple[str, list[_Card]]]:
    """The best, median and worst samples; two of each where there are plenty."""
    count = len(ranked)
    if count < 3:
        return [("Samples", ranked)]
    some = 2 if count >= 8 else 1
    middle = (count - some + 1) // 2
    return [("Best", ranked[:some]), ("Median", ranked[middle : middle + some]), ("Worst", ranked[-some:])]


def _verdicts(summary: Summary) -> list[dict[str, Any]]:
    """The headline figures, each beside the baseline that is hardest to beat on the views that were not given."""
    verdicts = []
    for name, figure in summary.headline.items():
        best = summary.best_baseline(name, novel=True)
        other = summary.methods[best][name]
        lead = figure.novel_views - other.novel_views
        verdicts.append({
            "name": name,
            "metric": BY_NAME[name],
            "figure": figure,
            "baseline": BASELINES[best],
            "other": other,
            "lead": abs(lead),
            "ahead": lead > 0,
        })  # fmt: skip
    return verdicts


def _best(summary: Summary) -> dict[str, dict[str, float]]:
    """For every metric the best figure of the model and the baselines, over all views and over the novel ones."""
    best: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        pick = max if metric.higher_is_better else min
        best[metric.name] = {}
        for views in ("all_views", "novel_views"):
            known = [getattr(figures[metric.name], views) for name, figures in summary.methods.items() if name != TRUTH]
            best[metric.name][views] = pick((value for value in known if not math.isnan(value)), default=math.nan)
    return best


def _plots(report: Report) -> list[dict[str, Any]]:
    """Spread over samples of the headline figures (novel views), the strongest baseline's behind it."""
    plots = []
    for name in HEADLINE:
        metric, other = BY_NAME[name], report.summary.best_baseline(name, novel=True)
        values = [sample.methods[MODEL][name].novel_views for sample in report.samples]
        others = [sample.methods[other][name].novel_views for sample in report.samples]
        what = f"{metric.title} of {len(values)} samples: model, and {BASELINES[other]} as an outline"
        plots.append({
            "title": metric.title + (f" ({metric.unit})" if metric.unit else ""),
            "other": BASELINES[other],
            "svg": histogram(values, others, what, metric.digits),
        })  # fmt: skip
    return plots
