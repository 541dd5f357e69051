"""Pictures of any kind, framed as training frames its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.placement import Placement, bounding_box, framed

MIDDLE = Placement((0.4, 0.5, 0.6), (0.45, 0.5, 0.55), (0.45, 0.5, 0.55))
SIZE = 64


def scene(
    height: int, width: int, left: int, top: int, side: int, ground: object = 255
) -> tuple[np.ndarray, np.ndarray]:
    """A red square on some ground, and its mask."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = ground
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    picture[mask] = (200, 30, 30)
    return picture, mask


def box_of(view: np.ndarray) -> tuple[int, int, int, int]:
    return bounding_box(view.min(-1) < 200)


def test_a_training_picture_is_left_as_it_is():
    picture, mask = scene(SIZE, SIZE, 16, 16, 32)
    assert np.array_equal(framed(picture, SIZE, MIDDLE, mask), picture)
    assert np.array_equal(framed(picture, SIZE, MIDDLE), picture)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(40, 300),
    width=st.integers(40, 300),
    left=st.floats(0, 1),
    top=st.floats(0, 1),
    share=st.floats(0.1, 0.9),
)
def test_wherever_the_subject_stands_it_is_framed_as_in_training(height, width, left, top, share):
    side = max(10, int(share * min(height, width)))
    picture, mask = scene(height, width, int(left * (width - side)), int(top * (height - side)), side, ground=90)
    seen = framed(picture, 128, MIDDLE, mask)
    assert seen.shape == (128, 128, 3)
    x0, y0, x1, y1 = box_of(seen)
    # resampling blurs an edge over a pixel or two of the picture, whatever size that becomes
    blur = 3 + 2 * 128 / (side / 0.5)
    assert 0.4 * 128 - blur <= max(x1 - x0, y1 - y0) <= 0.6 * 128 + blur
    assert abs((x0 + x1) / 2 - 64) <= 0.05 * 128 + blur and abs((y0 + y1) / 2 - 64) <= 0.05 * 128 + blur


@pytest.mark.parametrize("ground", [0, 128, "texture"])
def test_any_ground_becomes_white_where_a_mask_tells_it(ground):
    if ground == "texture":
        ground = np.random.default_rng(0).integers(0, 255, (200, 260, 3))
    picture, mask = scene(200, 260, 150, 90, 60, ground)
    seen = framed(picture, SIZE, MIDDLE, mask)
    assert (seen[:8] == 255).all() and (seen[:, :8] == 255).all()
    assert np.abs(seen[28:36, 28:36].astype(int) - (200, 30, 30)).max() <= 2
    as_alpha = np.dstack([picture, mask.astype(np.uint8) * 255])
    assert np.array_equal(framed(as_alpha, SIZE, MIDDLE), seen)
    assert np.array_equal(framed(picture, SIZE, MIDDLE, mask.astype(np.uint8) * 255), seen)


def test_without_a_mask_the_centred_square_is_taken():
    picture, _ = scene(100, 200, 90, 40, 20, ground=128)
    seen = framed(picture, 100, MIDDLE)
    assert np.array_equal(seen, picture[:, 50:150])


def test_grey_pictures_and_pictures_with_alpha_are_taken():
    grey = np.full((64, 64), 77, np.uint8)
    assert (framed(grey, 32, MIDDLE) == 77).all()
    half = np.full((64, 64, 4), (10, 20, 30, 255), np.uint8)
    half[:, :32, 3] = 0
    seen = framed(half, 32, Placement((0, 1, 1), (0, 0.75, 1), (0, 0.5, 1)))
    assert (seen[:, :13] == 255).all() and (seen[:, 19:] == (10, 20, 30)).all()


def test_placement_is_measured_on_what_training_shows():
    views = [np.stack([scene(100, 100, 30, 40, side)[0] for side in (20, 30, 40)])]
    placement = Placement.measured(views)
    assert placement.extent == pytest.approx((0.21, 0.3, 0.39), abs=0.005)
    assert placement.across[1] == pytest.approx(0.45) and placement.down[1] == pytest.approx(0.55)
    assert Placement.read(placement.written()) == placement


def test_blank_views_have_no_placement():
    with pytest.raises(InputError, match="blank"):
        Placement.measured([np.full((6, 8, 8, 3), 255, np.uint8)])


@pytest.mark.parametrize(
    "written", [None, {}, {"extent": [1, 2], "across": [0, 0, 0], "down": [0, 0, 0]}, {"extent": "a"}]
)
def test_a_damaged_placement_is_refused(written):
    with pytest.raises(InputError, match="placement"):
        Placement.read(written)


@pytest.mark.parametrize(
    ("picture", "mask", "match"),
    [
        (np.zeros((8, 8, 2), np.uint8), None, r"uint8 \[8, 8, 2\]"),
        (np.zeros((8, 8, 3)), None, "float64"),
        (np.zeros((0, 8, 3), np.uint8), None, r"\[0, 8, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool), "empty"),
        (np.zeros((8, 8, 4), np.uint8), None, "empty"),
        (np.zeros((8, 8, 3), np.uint8), np.ones((8, 9), bool), r"mask is bool \[8, 9\]"),
        (np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)), "mask is float64"),
    ],
)
def test_what_is_no_picture_is_refused(picture, mask, match):
    with pytest.raises(InputError, match=match):
        framed(picture, 32, MIDDLE, mask)
