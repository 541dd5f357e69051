"""Small plots as inline SVG, coloured by the page's style sheet."""

import math

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 340, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 10, 14, 34


def histogram(values: list[float], others: list[float], what: str, digits: int) -> Markup:
    """How ``values`` (the model's) are spread, as bars, with ``others`` (a baseline's) as an outline over them.

    ``what`` is read out instead of the picture. Numbers that are not finite are left out.
    """
    values, others = ([v for v in of if math.isfinite(v)] for of in (values, others))
    if not values:
        return Markup("")
    low, high, step = _axis(min(values + others), max(values + others), digits)
    bins = round((high - low) / step) * 4
    edges = np.linspace(low, high, bins + 1)
    counts = np.histogram(values, edges)[0]
    other_counts = np.histogram(others, edges)[0]
    tallest = int(max(counts.max(), other_counts.max()))

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(count: float) -> float:
        return _HEIGHT - _BOTTOM - count / tallest * (_HEIGHT - _TOP - _BOTTOM)

    base = y(0)
    parts = [
        f'<rect class="bar" x="{x(edges[i]) + 0.5:.1f}" y="{y(n):.1f}" width="{x(edges[i + 1]) - x(edges[i]) - 1:.1f}" '
        f'height="{base - y(n):.1f}"/>'
        for i, n in enumerate(counts)
        if n
    ]
    if others:
        steps = f"M{x(low):.1f} {base:.1f}" + "".join(
            f"V{y(n):.1f}H{x(edges[i + 1]):.1f}" for i, n in enumerate(other_counts)
        )
        parts.append(f'<path class="outline" d="{steps}V{base:.1f}"/>')
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{base:.1f}" x2="{_WIDTH - _RIGHT}" y2="{base:.1f}"/>')
    for tick in np.arange(low, high + step / 2, step):
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{base + 15:.1f}">{_number(tick, step)}</text>')
    parts.append(f'<text class="count" x="{_LEFT - 5}" y="{y(tallest) + 4:.1f}">{tallest}</text>')
    parts.append(f'<text class="count" x="{_LEFT - 5}" y="{base:.1f}">0</text>')
    for of, name in ((others, "mean other"), (values, "mean")):
        if of:
            at = x(sum(of) / len(of))
            parts.append(f'<line class="{name}" x1="{at:.1f}" y1="{_TOP - 8}" x2="{at:.1f}" y2="{base:.1f}"/>')
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(what)}">'
        + "".join(parts)
        + "</svg>"
    )


def _axis(low: float, high: float, digits: int) -> tuple[float, float, float]:
    """Round ends and step of an axis of three to seven ticks that holds ``low`` and ``high``."""
    span = max(high - low, 4 * 10.0**-digits)
    power = 10.0 ** math.floor(math.log10(span / 3))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= 5)
    start = math.floor(low / step) * step
    stop = math.ceil(high / step) * step
    return start, stop if stop > start else start + step, step


def _number(value: float, step: float) -> str:
    return f"{value + 0.0:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
