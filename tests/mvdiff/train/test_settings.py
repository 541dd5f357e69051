from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.train.schedule import learning_rate
from mvdiff.train.settings import FREE, AugmentSettings, TrainSettings, ValidationSettings

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "train").glob("*.yaml"))


def values_of(path):
    """All values of a configuration: its own over those of the one it is based on, part by part."""
    own = yaml.safe_load(path.read_text())
    values = {}
    for base in own.pop("defaults", []):
        if base != "_self_":
            values = values_of(path.with_stem(base))
    for key, value in own.items():
        if isinstance(value, str) and value.startswith("${"):
            value = 1  # of the cluster
        values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
    return values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_names_every_field_and_opens_with_what_to_expect(path):
    values = values_of(path)
    assert set(values) == {field.name for field in fields(TrainSettings)}
    assert set(values["augment"]) == {field.name for field in fields(AugmentSettings)}
    assert set(values["validation"]) == {field.name for field in fields(ValidationSettings)}
    TrainSettings.read(values)
    opening = path.read_text().split("\n\n")[0]
    assert opening.startswith(("# mvdiff train", "# make"))
    for word in ("Hardware:", "Time:", "Result:"):
        assert word in path.read_text()


def test_no_field_has_a_default():
    with pytest.raises(TypeError):
        TrainSettings()
    names = {field.name for field in fields(TrainSettings)}
    names |= {f"validation.{field.name}" for field in fields(ValidationSettings)}
    assert names > FREE


def test_settings_are_read_back_from_what_is_written(settings):
    plan = settings(augment={"flip": 0.5}, validation={"every": 7})
    assert TrainSettings.read(asdict(plan)) == plan
    assert (plan.augment.flip, plan.validation.every) == (0.5, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "linear"}, {"steps": 0}, {"steps": None}, {"learning_rate": float("nan")}, {"ema_decay": 1.0},
        {"seed": -1}, {"prior_share": 1.0}, {"prior_share": 0.05}, {"prior_share": 0.95}, {"min_snr": 0},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused_by_name(settings, wrong):
    with pytest.raises(InputError, match=f"train.{next(iter(wrong))}="):
        settings(**wrong)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [("augment", {"flip": 1.1}), ("augment", {"colour": -0.1}), ("augment", {"crop": 0.4}),
     ("validation", {"samples": 0}), ("validation", {"guidance": -1})],
)  # fmt: skip
def test_nonsense_in_a_part_is_refused_by_its_whole_name(settings, part, wrong):
    with pytest.raises(InputError, match=f"train.{part}.{next(iter(wrong))}="):
        settings(**{part: wrong})


def test_epochs_count_what_is_learnt_and_not_the_prior(settings):
    plan = settings(steps=None, epochs=1.5, batch=8, prior_share=0.25, freeze_encoder_epochs=0.5)
    assert (plan.own_batch, plan.prior_batch) == (6, 2)
    assert plan.sized(10).last_step == 3 and plan.sized(12).last_step == 3 and plan.sized(13).last_step == 4
    assert plan.sized(10).sized(99) == plan.sized(10)
    assert plan.frozen_steps(10) == 1


def test_a_world_that_does_not_divide_the_batch_is_refused(settings):
    assert settings(batch=4).share(2) == 2
    with pytest.raises(InputError, match=r"train.batch=4 .* 3 ranks: use 1, 2, 4 ranks"):
        settings(batch=4).share(3)


@given(st.integers(1, 50), st.integers(0, 60), st.sampled_from(["constant", "cosine"]))
def test_the_learning_rate_rises_then_never_rises_again(steps, warmup, schedule):
    values = values_of(CONFIGS[0]) | {
        "steps": steps,
        "warmup_steps": warmup,
        "schedule": schedule,
        "learning_rate": 1.0,
    }
    plan = TrainSettings.read(values)
    rates = [learning_rate(step, plan) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
    if falling:
        assert falling[0] == 1
    if schedule == "cosine" and len(falling) > 10:
        assert falling[-1] < 0.1
