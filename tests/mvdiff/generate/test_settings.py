from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import configs
from mvdiff.errors import InputError
from mvdiff.generate import GenerateSettings, Recipe, sample_seed
from mvdiff.generate.settings import reference_views

DEFAULTS = yaml.safe_load((Path(configs.__file__).parent / "generate" / "default.yaml").read_text())
SETTINGS = GenerateSettings(**{**DEFAULTS, "sampler": "ddim", "steps": 28, "guidance": 4.0})
RECIPE = Recipe.of(SETTINGS, checkpoint="a", rig="mouse", size=320)


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_whatever_decides_an_output_is_part_of_the_set_id_and_told(name):
    value = asdict(RECIPE)[name]
    changed = value + "x" if isinstance(value, str) else (0.25, 1.0) if isinstance(value, tuple) else value + 1
    other = replace(RECIPE, **{name: changed})
    assert other.set_id != RECIPE.set_id
    assert other.described() != RECIPE.described() or name == "rig", "a run has one rig"


def test_the_set_id_never_changes_between_versions():
    recipe = Recipe("abc", "mouse", 320, "ddim", 28, 4.0, 0.0, (0.0, 1.0), "no", 0, 0, 8, 1, False)
    assert recipe.set_id == "49e72dd9f533f7aa"


def test_a_guidance_given_as_a_whole_number_is_the_same_recipe():
    assert Recipe.of(replace(SETTINGS, guidance=4), checkpoint="a", rig="mouse", size=320) == RECIPE


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch": 0}, {"slice": 30}, {"reference_view": 6}, {"reference_view": -1}, {"poll_seconds": 0},
        {"heartbeat_seconds": 100.0}, {"sampler": "heun"}, {"mixed_precision": "fp8"}, {"guidance_rescale": 1.1},
        {"guidance_interval": (0.5, 0.5)}, {"guidance_interval": (0.0, 0.5, 1.0)},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=r"generate\."):
        replace(SETTINGS, **wrong)


@pytest.mark.parametrize(
    ("asked", "views"),
    [(2, (2,)), ("0", (0,)), ("2,0", (0, 2)), ("[1, 3]", (1, 3)), ([5, 5], (5,)), ("all", (0, 1, 2, 3, 4, 5))],
)
def test_reference_views_are_asked_for_one_by_one_or_all(asked, views):
    assert reference_views(asked) == views


@pytest.mark.parametrize("asked", [6, -1, "", "0,6", "none", [], None, 1.5, True])
def test_reference_views_that_are_not_there_are_refused(asked):
    with pytest.raises(InputError, match=r"generate\.reference_view"):
        reference_views(asked)


@given(st.lists(st.tuples(st.integers(), st.text()), unique=True, min_size=2))
def test_seeds_are_pure_distinct_and_fit_torch(pairs):
    seeds = [sample_seed(*pair) for pair in pairs]
    assert seeds == [sample_seed(*pair) for pair in pairs]
    assert len(set(seeds)) == len(pairs)
    assert all(0 <= seed < 2**63 for seed in seeds)
