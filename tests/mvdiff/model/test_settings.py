import pytest

from mvdiff.errors import InputError
from mvdiff.model.settings import ModelSettings
from tests.mvdiff.model.conftest import tiny_values


def test_the_tiny_config_is_whole():
    values = tiny_values()
    tiny = ModelSettings.read(values)
    assert tiny.written() == values
    assert ModelSettings.read(tiny.written()) == tiny


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("widths", [16]),
        ("attention", [True]),
        ("attention", [False, False]),
        ("patch", 5),
        ("norm_groups", 5),
        ("head_width", 7),
        ("condition_grid", 3),
        ("latent_channels", 193),
        ("reference", "blurred"),
        ("beta_schedule", "squaredcos"),
        ("steps", 0),
    ],
)
def test_what_does_not_fit_is_named(settings, key, value):
    with pytest.raises(InputError, match=rf"model\.(new\.)?{key}="):
        settings(**{key: value})


def test_an_unknown_rig_is_refused(settings):
    with pytest.raises(InputError, match="rig"):
        settings(rig="cube")


def test_a_new_model_whose_tile_is_larger_than_the_condition_among_its_channels_is_refused(settings):
    with pytest.raises(InputError, match=r"layout=tile does not fit: .*: model.new.condition_channels=false"):
        settings(layout="tile", camera="none")
    assert settings(layout="tile", camera="none", condition_channels=False).layout == "tile"
