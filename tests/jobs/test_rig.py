"""Cameras of one's own, from the command line to the settings of `pack` and `synth`."""

import pytest
from omegaconf import OmegaConf

from jobs.compose import composed, part
from mvdiff.errors import InputError
from mvdiff.mouse.colony import Colony
from mvdiff.pack import PackSettings
from mvdiff.rig import Rig, rig

TOWER = "{name: tower, azimuth: [0, 60, 120, 180, 240, 300], elevation: [30, 30, 30, 30, 30, 30], fov: 40, distance: 2}"
JOBS = {"pack": (PackSettings, ["source=x"]), "synth": (Colony, [])}


@pytest.mark.parametrize("job", JOBS)
def test_a_rig_is_a_name_or_its_numbers(job: str):
    kind, more = JOBS[job]
    tower = Rig("tower", (0, 60, 120, 180, 240, 300), (30,) * 6, 40, 2)
    for word, cameras in (
        ("", rig("mouse")),
        ("facelift", rig("facelift")),
        (TOWER, tower),
        (f"'{tower.text}'", tower),
    ):
        config = composed(job, ["run=y", *more, *([f"rig={word}"] if word else [])])
        settings = part(kind, config)
        assert settings.rig == cameras.text
        assert part(kind, OmegaConf.create(OmegaConf.to_yaml(config))) == settings


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("moose", "unknown rig 'moose'.*choose facelift, mouse"),
        ("null", "unknown rig None"),
        (TOWER.replace("tower", "mouse"), "known rig mouse has elevation"),
        (TOWER.replace("40", "wide"), "rig tower has fov 'wide'"),
        (TOWER.replace("[0, ", "["), "rig tower has azimuth"),
        (TOWER.replace("fov", "fow"), "unknown key 'fow'"),
    ],
)
def test_a_wrong_rig_is_wrong_input(job: str, word: str, reason: str):
    kind, more = JOBS[job]
    with pytest.raises(InputError, match=reason) as told:
        part(kind, composed(job, ["run=y", *more, f"rig={word}"]))
    assert "\n" not in str(told.value)
