"""The history of a run's validations: which was best, how long ago that is, and what went wrong since."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

DRIFT = 2.0
"""Rise of the colour shift (L*a*b*) that is told: about what a person just notices (``evaluate/colour.py``)."""
FALL = 0.3
"""Fall of the foreground PSNR in dB that is told: a mean squared error 7 % larger."""

SCORES = ("foreground_psnr", "psnr", "ssim", "foreground_iou", "colour_shift", "silhouette")
"""What a validation is scored by: ``evaluate.metrics`` over all six views, and the silhouette's consistency."""

_FIGURES = (
    ("psnr", "PSNR", ".2f", " dB"),
    ("ssim", "SSIM", ".3f", ""),
    ("foreground_iou", "foreground IoU", ".3f", ""),
    ("colour_shift", "colour shift", ".1f", ""),
    ("silhouette", "silhouette", ".3f", ""),
)


@dataclass(frozen=True)
class Validated:
    """What a validation after ``step`` steps found."""

    step: int
    scores: dict[str, float]
    """Mean scores by name; not a number where no sample had one."""

    @property
    def foreground_psnr(self) -> float:
        """By which validations are compared, in dB; below every number where it is none."""
        return _number(self.scores["foreground_psnr"], -math.inf)

    @property
    def colour_shift(self) -> float:
        """Distance in L*a*b*; above every number where it is none."""
        return _number(self.scores["colour_shift"], math.inf)


class History:
    """The validations of a run in the order of their steps.

    Every answer is a function of these alone, so that a restarted run decides as the one that was killed would have.
    """

    def __init__(self, entries: Iterable[Validated] = ()) -> None:
        self.entries = list(entries)

    def __iter__(self) -> Iterator[Validated]:
        return iter(self.entries)

    @classmethod
    def read(cls, values: Iterable[Mapping[str, Any]]) -> Self:
        """What ``written`` gave."""
        return cls(
            Validated(
                one["step"],
                {name: math.nan if value is None else value for name, value in one["scores"].items()},
            )
            for one in values
        )

    def written(self) -> list[dict[str, Any]]:
        """Plain JSON values; null for what is not a number."""
        return [
            {
                "step": one.step,
                "scores": {name: None if math.isnan(value) else value for name, value in one.scores.items()},
            }
            for one in self.entries
        ]

    def record(self, step: int, scores: Mapping[str, float]) -> None:
        """Add the validation after ``step`` steps; what was known of this step and of later ones is forgotten."""
        self.entries = [one for one in self.entries if one.step < step] + [Validated(step, dict(scores))]

    @property
    def newest(self) -> Validated | None:
        """The validation of the most steps; None where there is none."""
        return self.entries[-1] if self.entries else None

    def best(self) -> Validated | None:
        """The validation of the highest foreground PSNR, the earliest of equals; None where none has a number."""
        return next(iter(self._ranked()), None)

    def ranking(self) -> list[int]:
        """Steps of the validations with a foreground PSNR, best first."""
        return [one.step for one in self._ranked()]

    def stale(self) -> int:
        """How many validations there have been since the best."""
        best = self.best()
        return sum(best is None or one.step > best.step for one in self.entries)

    def exhausted(self, patience: int) -> bool:
        """Whether ``patience`` validations in a row have not been better than the best before them; 0: never."""
        return 0 < patience <= self.stale()

    def remarks(self) -> list[str]:
        """What the newest validation shows to go wrong, a line each: colours that drift, a fall after a rise."""
        newest, best = self.newest, self.best()
        if newest is None or best is None:
            return []
        told = []
        least = min(self.entries, key=lambda one: one.colour_shift)
        risen = newest.colour_shift - least.colour_shift
        if DRIFT < risen < math.inf:
            told.append(
                f"colours drift: colour shift {newest.colour_shift:.1f} at step {newest.step}, {risen:.1f} above the "
                f"{least.colour_shift:.1f} at step {least.step}; {_mend(newest, best)}"
            )
        fallen = best.foreground_psnr - newest.foreground_psnr
        if best is not self.entries[0] and FALL < fallen < math.inf:
            told.append(
                f"worse after having been better: foreground PSNR {newest.foreground_psnr:.2f} dB at "
                f"step {newest.step}, {best.foreground_psnr:.2f} at step {best.step}; {_mend(newest, best)}"
            )
        return told

    def line(self, steps: int) -> str:
        """The newest validation of a run of ``steps`` in one line; there must be one."""
        newest, best = self.newest, self.best()
        assert newest is not None
        since = ""
        if len(self.entries) > 1 and best is newest:
            since = " (the best so far)"
        elif best is not None and best is not newest:
            since = f" (best {best.foreground_psnr:.2f} at step {best.step})"
        figures = [f"foreground PSNR {_shown(newest, 'foreground_psnr', '.2f', ' dB')}{since}"]
        figures += [f"{title} {_shown(newest, name, digits, unit)}" for name, title, digits, unit in _FIGURES]
        return f"validation at step {newest.step}/{steps}: {', '.join(figures)}"

    def _ranked(self) -> list[Validated]:
        known = [one for one in self.entries if math.isfinite(one.foreground_psnr)]
        return sorted(known, key=lambda one: (-one.foreground_psnr, one.step))


def _mend(newest: Validated, best: Validated) -> str:
    if newest is best:
        return "the foreground PSNR is the best so far all the same: look at the contact sheet before training on"
    return (
        "training on makes it worse: lower train.learning_rate, train fewer epochs, "
        f"or take the best checkpoint, step-{best.step:08d}"
    )


def _number(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _shown(one: Validated, name: str, digits: str, unit: str) -> str:
    value = one.scores[name]
    return "unknown" if math.isnan(value) else f"{value:{digits}}{unit}"
