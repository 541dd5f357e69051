"""The learning-rate schedule, as a pure function of the step."""

import math

from mvdiff.train.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Learning rate of optimizer step ``step`` (from 0).

    A linear rise over the warm-up, then constant, or half a cosine that reaches zero after the last step (Loshchilov
    and Hutter 2017, SGDR, without restarts).
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(settings.last_step - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
