import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.mouse.heading import Heading
from mvdiff.rig import angle_between


def drawn(name: str, count: int = 300) -> np.ndarray:
    heading = Heading.parse(name)
    return np.array([heading.draw(np.random.default_rng(i)) for i in range(count)])


def test_front_is_near_zero_and_varies():
    angles = drawn("front")
    assert angle_between(angles, 0).max() <= 8
    assert np.ptp((angles + 180) % 360) > 8


def test_side_is_near_ninety():
    assert angle_between(drawn("side"), 90).max() <= 8


def test_front_or_side_is_either_about_as_often():
    angles = drawn("front-or-side")
    front, side = angle_between(angles, 0) <= 8, angle_between(angles, 90) <= 8
    assert (front ^ side).all()
    assert 0.35 < front.mean() < 0.65


def test_any_covers_the_circle_evenly():
    counts = np.histogram(drawn("any", 1200), 6, (0, 360))[0]
    assert counts.sum() == 1200
    assert counts.min() > 150


@given(st.floats(-720, 720))
def test_a_number_is_kept_without_jitter(degrees: float):
    heading = Heading.parse(degrees)
    angles = {heading.draw(np.random.default_rng(i)) for i in range(3)}
    assert len(angles) == 1
    assert angle_between(angles.pop(), degrees) < 1e-2
    assert Heading.parse(heading.name) == heading


@pytest.mark.parametrize("wrong", ["sideways", "", "nan", "inf", None])
def test_what_is_no_heading_is_told_with_the_choices(wrong):
    with pytest.raises(InputError, match="front-or-side"):
        Heading.parse(wrong)
