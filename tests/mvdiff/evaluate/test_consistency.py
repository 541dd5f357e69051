import numpy as np
import pytest

from mvdiff import view_consistency
from mvdiff.rig import RIGS

RIG = RIGS["mouse"]


def measured(views: np.ndarray, alpha: np.ndarray | None = None, **changes) -> dict[str, float]:
    cameras = {"azimuth": RIG.azimuth, "elevation": RIG.elevation, "fov": RIG.fov, **changes}
    return view_consistency(np.ascontiguousarray(views), alpha=alpha, **cameras)


def shifted(views: np.ndarray, pixels: int) -> np.ndarray:
    changed = views.copy()
    changed[2] = np.roll(views[2], pixels, 0)
    return changed


def test_one_body_is_consistent(bodies):
    for sample in bodies[:3]:
        for alpha in (sample.alpha, None):
            found = measured(sample.views, alpha)
            assert found["silhouette"] > 0.97
            assert found["silhouette_worst"] > 0.95
            assert found["colour_overlap"] > 0.6


WRONG = {
    "shifted by 2 %": (lambda views: shifted(views, 2), 0.005),
    "shifted by 5 %": (lambda views: shifted(views, 5), 0.02),
    "one mirrored": (lambda views: np.concatenate([views[:1], views[1:2, :, ::-1], views[2:]]), 0.05),
    "all mirrored": (lambda views: views[:, :, ::-1], 0.05),
    "neighbours swapped": (lambda views: views[[0, 2, 1, 3, 4, 5]], 0.05),
    "the other way round": (lambda views: views[[0, 5, 4, 3, 2, 1]], 0.05),
    "input copied": (lambda views: views[[0] * 6], 0.05),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_one_body_scores_lower(bodies, kind):
    change, drop = WRONG[kind]
    for sample in bodies[:3]:
        right, wrong = measured(sample.views), measured(change(sample.views))
        assert wrong["silhouette"] < right["silhouette"] - drop
        assert wrong["silhouette_worst"] <= wrong["silhouette"]


def test_more_shift_is_less_coherent(bodies):
    found = [measured(shifted(bodies[0].views, pixels))["silhouette"] for pixels in (0, 2, 4, 8, 16)]
    assert found == sorted(found, reverse=True)


def test_a_recoloured_view_shows_in_colour_and_not_in_silhouette(bodies):
    sample = bodies[0]
    views = sample.views.copy()
    views[2] = np.where(sample.alpha[2][..., None] > 0, views[2][..., ::-1] // 2, views[2])
    right, wrong = measured(sample.views, sample.alpha), measured(views, sample.alpha)
    assert wrong["silhouette"] == pytest.approx(right["silhouette"])
    assert wrong["colour"] > 1.5 * right["colour"]


def test_only_relative_azimuth_matters(bodies):
    turned = measured(bodies[0].views, azimuth=np.array(RIG.azimuth) + 77)
    assert turned["silhouette"] == pytest.approx(measured(bodies[0].views)["silhouette"], abs=2e-3)


def test_wrong_cameras_are_seen(bodies):
    right = measured(bodies[0].views)["silhouette"]
    assert measured(bodies[0].views, azimuth=(0, 45, 90, 180, 270, 315))["silhouette"] < right - 0.1
    assert measured(bodies[0].views, elevation=30.0)["silhouette"] < right - 0.02
    assert measured(bodies[0].views, fov=60.0)["silhouette"] < right - 0.005


def test_no_subject_is_never_consistent(bodies):
    blank = np.full_like(bodies[0].views, 255)
    assert measured(blank)["silhouette"] == 0
    assert np.isnan(measured(blank)["colour"])
    one_empty = bodies[0].views.copy()
    one_empty[4] = 255
    assert measured(one_empty)["silhouette"] == 0


def test_a_full_frame_ends_in_bounded_time_and_memory():
    found = measured(np.zeros((6, 320, 320, 3), np.uint8))
    assert 0 < found["silhouette"] < 1


def test_wrong_shapes_are_refused(bodies):
    with pytest.raises(ValueError, match=r"\[5, 96, 96, 3\]"):
        measured(bodies[0].views[:5])
    with pytest.raises(ValueError, match="alpha"):
        measured(bodies[0].views, bodies[0].alpha[:, :90])
