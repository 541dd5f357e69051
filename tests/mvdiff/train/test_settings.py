from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.train.schedule import learning_rate
from mvdiff.train.settings import FREE, TrainSettings

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "train").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_names_every_field_and_opens_with_what_to_expect(path):
    values = yaml.safe_load(path.read_text())
    defaults = values.pop("defaults", [])
    for base in defaults:
        if base != "_self_":
            values = yaml.safe_load((path.parent / f"{base}.yaml").read_text()) | values
    assert set(values) == {field.name for field in fields(TrainSettings)}
    TrainSettings(**values)
    opening = path.read_text().split("\n\n")[0]
    assert opening.startswith(("# mvdiff train", "# make"))
    for word in ("Hardware:", "Time:", "Result:"):
        assert word in path.read_text()


def test_no_field_has_a_default():
    with pytest.raises(TypeError):
        TrainSettings()
    assert {field.name for field in fields(TrainSettings)} > FREE


@pytest.mark.parametrize(
    "wrong",
    [{"schedule": "linear"}, {"steps": 0}, {"learning_rate": float("nan")}, {"ema_decay": 1.0}, {"seed": -1}],
    ids=str,
)
def test_nonsense_is_refused_by_name(settings, wrong):
    with pytest.raises(InputError, match=f"train.{next(iter(wrong))}="):
        settings(**wrong)


def test_a_world_that_does_not_divide_the_batch_is_refused(settings):
    assert settings(batch=4).share(2) == 2
    with pytest.raises(InputError, match=r"train.batch=4 .* 3 ranks: use 1, 2, 4 ranks"):
        settings(batch=4).share(3)


@given(st.integers(1, 50), st.integers(0, 60), st.sampled_from(["constant", "cosine"]))
def test_the_learning_rate_rises_then_never_rises_again(steps, warmup, schedule):
    values = yaml.safe_load(CONFIGS[0].read_text())
    base = yaml.safe_load((CONFIGS[0].parent / "default.yaml").read_text())
    plan = TrainSettings(**base | {k: v for k, v in values.items() if k in base} | {
        "steps": steps, "warmup_steps": warmup, "schedule": schedule, "learning_rate": 1.0,
    })  # fmt: skip
    rates = [learning_rate(step, plan) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
    if falling:
        assert falling[0] == 1
    if schedule == "cosine" and len(falling) > 10:
        assert falling[-1] < 0.1
