"""Cameras: where rigs stand, how they are written, and what flips and crops do to them."""

import json
import math
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.framing import Framing
from mvdiff.rig import (
    RIGS,
    Rig,
    angle_between,
    angles,
    camera_centre,
    cropped,
    field_of_view,
    flipped_cameras,
    look_at_origin,
    readable,
    relative,
    rig,
)
from tests.mvdiff.rigs import FACELIFT, MOUSE, TOWER, V11, V12, azimuths, elevations, rigs, six


def rotation(quaternion: list[float]) -> np.ndarray:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def project(point: np.ndarray, w2c: np.ndarray, k: np.ndarray) -> np.ndarray:
    u, v, depth = k @ (w2c[:3, :3] @ point + w2c[:3, 3])
    return np.array([u, v]) / depth


@st.composite
def cameras(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Any ``w2c`` that has the unit ball before it, and any K, skewed and off centre."""
    w2c = np.eye(4)
    quaternion = draw(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
    w2c[:3, :3] = rotation(quaternion)
    w2c[:3, 3] = [draw(st.floats(-1, 1)), draw(st.floats(-1, 1)), draw(st.floats(2, 5))]
    focal, centre = st.floats(50, 2000), st.floats(0, 512)
    k = np.array([[draw(focal), draw(st.floats(-5, 5)), draw(centre)], [0, draw(focal), draw(centre)], [0, 0, 1]])
    return w2c, k


points = st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3).map(np.array)


def test_the_known_rigs_have_the_published_numbers():
    assert MOUSE.azimuth == (0, 60, 120, 180, 240, 300) and MOUSE.elevation == (0,) * 6
    assert V11.azimuth == V12.azimuth == (30, 90, 150, 210, 270, 330)
    assert V11.elevation == (30, -20, 30, -20, 30, -20) and V12.elevation == (20, -10, 20, -10, 20, -10)
    assert FACELIFT.azimuth == (0, 45, 90, 180, 270, 315) and FACELIFT.elevation == (0,) * 6
    assert (FACELIFT.fov, FACELIFT.distance) == (50, 2.7)
    assert FACELIFT.intrinsics(512)[0, 0, 0] == pytest.approx(548.99, abs=0.01)
    for known in (MOUSE, V11, V12):
        assert (known.fov, known.distance) == (30, pytest.approx(1.8660254))


def test_cameras_do_without_torch():
    subprocess.run(
        [sys.executable, "-c", "import mvdiff.rig, sys; sys.exit('torch' in sys.modules)"], check=True, timeout=60
    )


@given(azimuths, elevations, st.floats(0.1, 100))
def test_looking_at_the_origin_and_angles_are_inverse(azimuth: float, elevation: float, distance: float):
    w2c = look_at_origin(azimuth, elevation, distance)
    found = angles(w2c)
    assert 0 <= found[0] < 360
    assert angle_between(found[0], azimuth) < 1e-3
    assert found[1] == pytest.approx(elevation, abs=1e-3)
    assert found[2] == pytest.approx(distance, rel=1e-5)
    assert np.linalg.det(w2c[:3, :3].astype(float)) == pytest.approx(1, abs=1e-5)
    assert w2c[:3, :3] @ w2c[:3, :3].T == pytest.approx(np.eye(3), abs=1e-5)


@given(azimuths, elevations, st.floats(1, 90))
def test_azimuth_counts_counter_clockwise_seen_from_above(azimuth: float, elevation: float, more: float):
    (x, y, z), (further_x, further_y, _) = (
        camera_centre(look_at_origin(a, elevation, 2.0)) for a in (azimuth, azimuth + more)
    )
    assert x * further_y - y * further_x > 0
    assert np.sign(z) == pytest.approx(np.sign(elevation)) or abs(elevation) < 1e-3


def test_a_camera_on_the_x_axis_has_y_on_its_right_and_z_on_top():
    w2c, k = look_at_origin(0, 0, 2), MOUSE.intrinsics(100)[0]
    assert camera_centre(w2c) == pytest.approx([2, 0, 0])
    assert project(np.array([0, 0.1, 0]), w2c, k)[0] > 50
    assert project(np.array([0, 0, 0.1]), w2c, k)[1] < 50
    assert camera_centre(look_at_origin(90, 0, 2)) == pytest.approx([0, 2, 0], abs=1e-6)


def test_a_camera_straight_above_is_refused():
    with pytest.raises(ValueError, match="up direction"):
        look_at_origin(0, 90, 1)


@given(st.one_of(rigs, st.sampled_from(list(RIGS.values()))))
@example(Rig("edge", [-1e-20, 359.9999999999, 720, -720, 360, -0.0], [-0.0, 89.9, -89.9, 1e-300, 0, 0], 0.1, 1e6))
def test_a_rig_is_what_its_text_says(some: Rig):
    assert rig(some.text) == some
    assert rig(some.text).text == some.text
    assert all(0 <= azimuth < 360 for azimuth in some.azimuth)
    assert "\n" not in some.text + some.described
    assert readable(some.text) == (some.name if some.name in RIGS else some.described)


@given(rigs)
def test_however_its_numbers_are_written_a_rig_has_one_text(some: Rig):
    turned = [azimuth - 360 for azimuth in some.azimuth]
    mapping = {**json.loads(some.text), "azimuth": np.array(some.azimuth), "fov": np.float64(some.fov)}
    assert rig(mapping).text == some.text
    assert rig({key: mapping[key] for key in reversed(mapping)}).text == some.text
    assert angle_between(rig({**mapping, "azimuth": turned}).azimuth, some.azimuth).max() < 1e-9


def test_whole_numbers_are_numbers():
    assert rig(TOWER).text == rig({**TOWER, "elevation": [30.0] * 6, "fov": 30.0}).text
    assert rig({**TOWER, "elevation": [0] * 6, "name": "mouse"}).text == "mouse"
    assert rig({**TOWER, "elevation": [-0.0] * 6}).text == rig({**TOWER, "elevation": [0] * 6}).text


def test_a_rig_is_described_in_one_line():
    assert MOUSE.described == "mouse (azimuth 0 60 120 180 240 300, elevation 0 0 0 0 0 0, FOV 30, distance 1.87)"
    assert readable("mouse") == "mouse"
    assert readable(rig(TOWER).text).startswith("tower (azimuth 0 60 120")
    for damaged in ("", "{", "moose\nrig", "[" * 100_000, json.dumps({**TOWER, "fov": 0})):
        assert len(readable(damaged)) <= 80 and "\n" not in readable(damaged)


WRONG = {
    "five azimuths": ({"azimuth": [0, 60, 120, 180, 240]}, "azimuth"),
    "seven elevations": ({"elevation": [0] * 7}, "elevation"),
    "no list": ({"azimuth": 60}, "azimuth"),
    "words": ({"azimuth": "abcdef"}, "azimuth"),
    "none among them": ({"azimuth": [0, 60, None, 180, 240, 300]}, "azimuth None"),
    "nan azimuth": ({"azimuth": [0, 60, math.nan, 180, 240, 300]}, "azimuth nan"),
    "infinite elevation": ({"elevation": [0, 0, math.inf, 0, 0, 0]}, "elevation inf"),
    "elevation 95": ({"elevation": [0, 0, 95, 0, 0, 0]}, "elevation 95"),
    "from straight above": ({"elevation": [90] * 6}, "elevation 90"),
    "azimuth in arc seconds": ({"azimuth": [0, 216_000, 0, 0, 0, 0]}, "azimuth 216000"),
    "fov 0": ({"fov": 0}, "fov 0"),
    "fov 180": ({"fov": 180}, "fov 180"),
    "fov nan": ({"fov": math.nan}, "fov nan"),
    "fov true": ({"fov": True}, "fov True"),
    "fov in words": ({"fov": "30"}, "fov '30'"),
    "no distance": ({"distance": 0}, "distance 0"),
    "behind the subject": ({"distance": -2}, "distance -2"),
    "as far as can be": ({"distance": 10**400}, "distance 10000"),
    "unknown key": ({"radius": 2}, "unknown key 'radius'"),
    "no name": ({"name": ""}, "name ''"),
    "name with a slash": ({"name": "a/b"}, "name 'a/b'"),
    "name with a new line": ({"name": "a\n"}, r"name 'a\\n'"),
    "name too long": ({"name": "x" * 65}, "name 'xxx"),
    "name that is none": ({"name": 3}, "name 3"),
    "known name, other numbers": ({"name": "mouse"}, "known rig mouse has elevation"),
}


@pytest.mark.parametrize("change, reason", WRONG.values(), ids=WRONG)
def test_wrong_numbers_are_told_in_one_line(change: dict, reason: str):
    with pytest.raises(InputError, match=reason) as told:
        rig({**TOWER, **change})
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


@pytest.mark.parametrize("key", TOWER)
def test_a_missing_number_is_named(key: str):
    with pytest.raises(InputError, match=rf"lacks {key}"):
        rig({name: value for name, value in TOWER.items() if name != key})


@pytest.mark.parametrize("value", ["moose", "", "{", "[1]", "3", "NaN", "[" * 100_000, 3, None, [1, 2]])
def test_what_is_no_rig_is_answered_with_the_known_ones(value: object):
    with pytest.raises(InputError, match=r"unknown rig .*choose facelift, mouse, zero123plus-v1\.1") as told:
        rig(value)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


def test_a_known_rig_with_other_numbers_cannot_be_built_either():
    with pytest.raises(InputError, match=r"has distance 1\.86602540\d*, not 1\.87"):
        Rig("mouse", MOUSE.azimuth, MOUSE.elevation, 30, 1.87)


def test_relative_cameras_in_numbers():
    assert MOUSE.relative(1)[:, 0].tolist() == [300, 0, 60, 120, 180, 240]
    assert not MOUSE.relative(1)[:, 1:].any()
    assert V12.relative(1)[:, 1].tolist() == [30, 0, 30, 0, 30, 0]
    distance, fov = [1, 2, 4, 2, 2, 2], [30, 40, 50, 40, 40, 40]
    found = relative(FACELIFT.azimuth, 0, distance, fov, 1)
    assert found.dtype == np.float32
    assert found[:, 0].tolist() == [315, 0, 45, 135, 225, 270]
    assert found[:, 2] == pytest.approx([-math.log(2), 0, math.log(2), 0, 0, 0])
    assert found[:, 3].tolist() == [-10, 0, 10, 0, 0, 0]


def test_relative_cameras_broadcast():
    azimuth = np.random.default_rng(0).uniform(0, 360, (5, 3, 6))
    found = relative(azimuth, np.zeros(6), np.full((3, 6), 2.0), 30, 4)
    assert found.shape == (5, 3, 6, 4)
    assert np.array_equal(found[2, 1], relative(azimuth[2, 1], 0, 2, 30, 4))


@given(six(azimuths), six(elevations), azimuths, st.integers(0, 5))
@example([0, -1e-9, 0, 0, 0, 0], [0.0] * 6, 0.0, 0)
def test_relative_cameras_do_not_know_where_azimuth_0_is(
    azimuth: list[float], elevation: list[float], turn: float, reference: int
):
    found = relative(azimuth, elevation, 2, 30, reference)
    assert np.all((found[:, 0] >= 0) & (found[:, 0] < 360))
    assert not found[reference].any()
    again = relative(np.array(azimuth) + turn, elevation, 2, 30, reference)
    assert angle_between(found[:, 0], again[:, 0]).max() < 1e-3
    assert np.array_equal(found[:, 1:], again[:, 1:])
    assert angle_between(found[:, 0] + azimuth[reference], azimuth).max() < 1e-3


@pytest.mark.parametrize("reference", [-1, 6])
def test_a_reference_that_is_no_view_is_refused(reference: int):
    for act in (MOUSE.relative, MOUSE.flip_order):
        with pytest.raises(ValueError, match="none of 0 to 5"):
            act(reference)


@pytest.mark.parametrize("distance", [0, -1, math.nan])
def test_a_distance_that_has_no_logarithm_is_refused(distance: float):
    with pytest.raises(ValueError, match="positive"):
        relative(MOUSE.azimuth, 0, distance, 30, 0)


@given(rigs, st.integers(1, 2048))
def test_the_field_of_view_is_the_one_the_intrinsics_were_made_for(some: Rig, size: int):
    for axis in (0, 1):
        assert field_of_view(some.intrinsics(size), size, axis) == pytest.approx(np.full(6, some.fov), rel=1e-5)


def test_the_field_of_view_across_is_not_the_one_down():
    k = np.array([[50, 0, 50], [0, 100, 50], [0, 0, 1]])
    assert field_of_view(k, 100) == pytest.approx(90)
    assert field_of_view(k, 100, 1) == pytest.approx(2 * math.degrees(math.atan(0.5)))


@given(cameras(), points, st.integers(1, 2048))
def test_a_flipped_camera_sees_the_mirrored_world_as_the_mirrored_picture(camera, point: np.ndarray, size: int):
    w2c, k = camera
    flipped, flipped_k = flipped_cameras(w2c, k, size)
    assert np.linalg.det(flipped[:3, :3]) == pytest.approx(1)
    assert flipped[:3, :3] @ flipped[:3, :3].T == pytest.approx(np.eye(3), abs=1e-9)
    assert (flipped_k[0, 0], flipped_k[1, 1], flipped_k[0, 2]) == pytest.approx((k[0, 0], k[1, 1], size - k[0, 2]))
    u, v = project(point, w2c, k)
    assert project(point * [1, -1, 1], flipped, flipped_k) == pytest.approx([size - u, v], abs=1e-6)


@given(rigs, st.integers(1, 2048))
def test_a_flip_of_a_flip_is_the_same_to_the_bit(some: Rig, size: int):
    w2c, k = some.w2c(), some.intrinsics(size)
    flipped = flipped_cameras(w2c, k, size)
    back = flipped_cameras(*flipped, size)
    assert all(array.dtype == np.float32 for array in (*flipped, *back))
    assert back[0].tobytes() == w2c.tobytes()
    assert back[1].tobytes() == k.tobytes()
    assert angle_between(angles(flipped[0])[0], 360 - np.array(some.azimuth)).max() < 0.02


def test_mirrored_turntables_fill_their_places_again():
    for known in (MOUSE, FACELIFT):
        assert known.flip_order() == (0, 5, 4, 3, 2, 1)
    assert MOUSE.flip_order(1) == (2, 1, 0, 5, 4, 3)
    assert FACELIFT.flip_order(3) == (0, 5, 4, 3, 2, 1)
    assert rig({**TOWER, "azimuth": (0, 60, 60, 180, 300, 300)}).flip_order() == (0, 4, 5, 3, 1, 2)


@given(six(elevations), st.floats(0, 360), st.permutations(range(6)), st.floats(1, 89), st.floats(91, 179))
def test_mirrored_views_stand_where_the_rig_s_own_do(elevation, turn: float, shuffled, near: float, far: float):
    a, b, c, d, _, _ = elevation
    azimuth = np.array([0, near, far, 180, -far, -near]) + turn
    some = Rig("some", azimuth[shuffled], np.array([a, b, c, d, c, b])[shuffled], 40, 2)
    for reference in (shuffled.index(0), shuffled.index(3)):
        order = some.flip_order(reference)
        assert order is not None and sorted(order) == list(range(6)) and order[reference] == reference
        mirrored, _ = flipped_cameras(some.w2c(), some.intrinsics(64), 64)
        found = relative(*angles(mirrored[list(order)]), 40, reference)
        expected = some.relative(reference)
        assert angle_between(found[:, 0], expected[:, 0]).max() < 0.01
        assert found[:, 1:] == pytest.approx(expected[:, 1:], abs=0.01)


def test_a_rig_that_is_not_its_own_mirror_image_has_no_flip_order():
    assert FACELIFT.flip_order(1) is None
    lopsided = rig({**TOWER, "elevation": (30, 30, 30, 30, 30, -20)})
    assert lopsided.flip_order(0) is None
    assert lopsided.flip_order(5) == (4, 3, 2, 1, 0, 5)
    assert rig({**TOWER, "azimuth": (0, 60, 120, 180, 240, 301)}).flip_order(0) is None


@pytest.mark.parametrize("known", [V11, V12], ids=lambda known: known.name)
def test_zero123plus_is_symmetric_about_its_views_but_not_about_its_published_condition(known: Rig):
    assert [known.flip_order(view) for view in (0, 1)] == [(0, 5, 4, 3, 2, 1), (2, 1, 0, 5, 4, 3)]
    mirrored, _ = flipped_cameras(known.w2c(), known.intrinsics(64), 64)
    azimuth, elevation, _ = angles(mirrored)
    assert sorted(azimuth.round()) == list(known.azimuth)
    assert all(known.differs(azimuth[list(order)], elevation[list(order)]) for order in permutations(range(6)))


@given(cameras(), points, st.floats(-100, 300), st.floats(-100, 300), st.floats(1, 500), st.integers(1, 2048))
def test_a_crop_moves_every_point_as_it_moves_the_picture(
    camera, point: np.ndarray, left: float, top: float, side: float, size: int
):
    w2c, k = camera
    u, v = project(point, w2c, k)
    expected = np.array([u - left, v - top]) * size / side
    assert project(point, w2c, cropped(k, left, top, side, size)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.floats(1, 170), st.integers(2, 512), st.floats(0.05, 1), st.integers(1, 512))
def test_a_centred_crop_sees_less(fov: float, whole: int, ratio: float, size: int):
    k = Rig("some", MOUSE.azimuth, MOUSE.elevation, fov, 2).intrinsics(whole)
    side = ratio * whole
    found = cropped(k, (whole - side) / 2, (whole - side) / 2, side, size)
    expected = math.degrees(2 * math.atan(ratio * math.tan(math.radians(fov) / 2)))
    assert field_of_view(found, size) == pytest.approx(np.full(6, expected), rel=1e-5)
    assert found[:, :2, 2] == pytest.approx(size / 2)


@given(cameras(), points, st.integers(1, 600), st.integers(1, 600), st.integers(1, 512))
def test_framing_is_the_crop_of_its_box(camera, point: np.ndarray, width: int, height: int, size: int):
    w2c, k = camera
    framing = Framing(width, height, size)
    left, top, right, _ = framing.box
    expected = (project(point, w2c, k) - [left, top]) * size / (right - left)
    assert project(point, w2c, framing.intrinsics(k)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_an_even_rig_looks_the_same_from_each_of_its_views():
    assert MOUSE.even and rig(TOWER).even
    assert rig({**TOWER, "azimuth": [7 - 60 * k for k in range(6)]}).even
    assert not any(known.even for known in (V11, V12, FACELIFT))
    assert not rig({**TOWER, "azimuth": (0, 60, 120, 180, 240, 301)}).even
