"""Which view of a rig stands for which of another."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.rig import Rig, rig, slots
from tests.mvdiff.rigs import FACELIFT, MOUSE, TOWER, V12, rigs


def refused(model: Rig, data: Rig) -> str:
    with pytest.raises(InputError) as told:
        slots(model, data, None)
    assert "\n" not in str(told.value)
    assert model.described in str(told.value) and data.described in str(told.value)
    assert told.value.mend == "set model.mapping=order (view k trains slot k), nearest, or a list of six views"
    return str(told.value)


def test_a_rig_at_elevation_30_is_refused_for_the_mouse_rig_at_0():
    tower = rig(TOWER)
    for model, data in ((MOUSE, tower), (tower, MOUSE)):
        assert "elevation 30 30 30 30 30 30" in refused(model, data)


def test_zero123plus_and_the_mouse_rig_are_refused_for_each_other():
    assert "azimuth 30 90 150 210 270 330, elevation 20 -10 20 -10 20 -10" in refused(V12, MOUSE)
    refused(MOUSE, V12)


@pytest.mark.parametrize(
    "change", [{"azimuth": (0, 60, 120, 180, 240, 302)}, {"fov": 32}, {"distance": 1.9}, {"elevation": (2,) * 6}]
)
def test_every_number_of_a_rig_must_agree(change: dict):
    refused(MOUSE, rig({**TOWER, "elevation": MOUSE.elevation, **change}))


def test_rigs_that_agree_need_no_mapping():
    near = Rig("near", [359.5, 60.5, 120, 180, 240, 300], [0.5, 0, 0, 0, 0, -0.5], 30.5, 1.87)
    for model, data in ((MOUSE, MOUSE), (MOUSE, near), (near, MOUSE)):
        assert slots(model, data, None) == (0, 1, 2, 3, 4, 5)


def test_in_order_whatever_the_cameras():
    assert slots(V12, FACELIFT, "order") == (0, 1, 2, 3, 4, 5)


def test_of_equally_near_views_the_first_in_order_are_taken():
    assert slots(V12, MOUSE, "nearest") == (0, 1, 2, 3, 4, 5)
    assert slots(MOUSE, V12, "nearest") == (0, 1, 2, 3, 4, 5)


def apart(one: Rig, k: int, other: Rig, view: int) -> float:
    a, b = (
        np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
        for a, e in (
            (math.radians(some.azimuth[n]), math.radians(some.elevation[n])) for some, n in ((one, k), (other, view))
        )
    )
    return math.degrees(2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))


@settings(max_examples=30)
@given(rigs, rigs)
@example(V12, MOUSE)
@example(MOUSE, Rig("dozing", [0, 0, 0, 180, 180, 180], [0] * 6, 30, 2))
def test_nearest_is_the_first_permutation_with_the_least_total_angle(model: Rig, data: Rig):
    table = [[apart(model, k, data, view) for view in range(6)] for k in range(6)]
    total = {order: sum(table[k][view] for k, view in enumerate(order)) for order in permutations(range(6))}
    found = slots(model, data, "nearest")
    least = min(total.values())
    assert total[found] <= least + 2e-6
    assert not any(total[order] < least + 5e-7 for order in total if order < found)


@given(st.permutations(range(6)))
def test_nearest_undoes_a_shuffle(shuffled: list[int]):
    data = Rig("shuffled", np.array(V12.azimuth)[shuffled] + 5, np.array(V12.elevation)[shuffled], 30, 2)
    assert [shuffled[view] for view in slots(V12, data, "nearest")] == list(range(6))


@given(st.permutations(range(6)))
def test_a_list_of_views_is_taken_as_it_is(views: list[int]):
    assert slots(MOUSE, FACELIFT, views) == tuple(views)
    assert slots(MOUSE, MOUSE, tuple(views)) == tuple(views)


@pytest.mark.parametrize(
    "mapping",
    [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, "5"], [False, True, 2, 3, 4, 5], [],
     "closest", "012345", "", 3, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]],
)  # fmt: skip
def test_what_is_no_permutation_is_refused(mapping: object):
    with pytest.raises(InputError, match=r"model\.mapping is .*order, nearest, or a list") as told:
        slots(MOUSE, MOUSE, mapping)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)
