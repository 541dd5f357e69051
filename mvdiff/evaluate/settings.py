"""What a person sets for an evaluation."""

from dataclasses import dataclass

from mvdiff.errors import InputError


@dataclass(frozen=True)
class EvaluateSettings:
    """The values of ``configs/evaluate/``. ``InputError`` when one makes no sense."""

    train_samples: int
    """The training mean and the nearest training sample are sought among at most so many samples, evenly spaced."""
    tile: int
    """Width of a view on the contact sheets in pixels."""
    page: int
    """Samples on one page of the report."""

    def __post_init__(self) -> None:
        for name, least in (("train_samples", 1), ("tile", 16), ("page", 1)):
            if getattr(self, name) < least:
                raise InputError(f"evaluate.{name} is {getattr(self, name)}", f"give at least {least}")
