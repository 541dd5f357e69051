import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mvdiff.evaluate.foreground import foreground, large_parts, true_foreground
from mvdiff.evaluate.metrics import iou


def flooded(mask: np.ndarray, share: float) -> np.ndarray:
    """Connected parts by plain flood fill, one pixel at a time."""
    left, parts = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        stack, part = [left.pop()], []
        while stack:
            y, x = stack.pop()
            part.append((y, x))
            for other in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if other in left:
                    left.remove(other)
                    stack.append(other)
        parts.append(part)
    kept = np.zeros_like(mask)
    for part in parts:
        if len(part) >= share * max(map(len, parts)):
            kept[tuple(np.array(part).T)] = True
    return kept


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.sampled_from([0.05, 0.4, 1.0]))
def test_parts_are_those_of_a_flood_fill(mask, share):
    np.testing.assert_array_equal(large_parts(mask, share), flooded(mask, share))


@pytest.mark.parametrize("noise", [0, 2, 6])
def test_noise_near_white_hardly_changes_the_mask(bodies, noise):
    rng = np.random.default_rng(0)
    sample = bodies[0]
    noisy = np.clip(sample.views + rng.normal(0, noise, sample.views.shape), 0, 255).astype(np.uint8)
    assert iou(foreground(noisy), sample.alpha > 127).min() > 0.97


def test_a_speck_is_no_subject_and_a_blank_picture_has_none():
    views = np.full((1, 40, 40, 3), 255, np.uint8)
    assert not foreground(views).any()
    views[0, 10:30, 10:30] = 90
    views[0, 2:5, 2:5] = 90
    mask = foreground(views)[0]
    assert mask[20, 20] and not mask[3, 3]


def test_one_dark_channel_is_enough():
    views = np.full((1, 20, 20, 3), 255, np.uint8)
    views[0, 5:15, 5:15, 2] = 200
    assert foreground(views)[0, 10, 10]


def test_truth_is_masked_by_its_alpha_where_it_has_one(bodies):
    sample = bodies[0]
    alpha = sample.alpha.copy()
    alpha[:, :50] = 0
    assert not true_foreground(sample.views, alpha)[:, :50].any()
    assert true_foreground(sample.views, None)[:, :50].any()
