import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from mvdiff.evaluate.colour import lab
from mvdiff.evaluate.metrics import BEST_PSNR, METRICS, colour_shift, iou, psnr, scores, squared_errors, ssim


def tensor(views: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(views).permute(0, 3, 1, 2).double() / 255


def patched(size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (6, size, size, 3), np.uint8)
    b = a.copy()
    b[:, 9:20, 4:15] = rng.integers(0, 256, b[:, 9:20, 4:15].shape)
    return a, b


@pytest.mark.parametrize("where", ["patch", "everywhere", "border"])
def test_ssim_is_torchmetrics(where):
    a, b = patched()
    if where == "everywhere":
        b = 255 - a // 3
    if where == "border":
        b = a.copy()
        b[:, 0, :] = 0
        b[:, :, -1] = 255
    expected = structural_similarity_index_measure(tensor(a), tensor(b), data_range=1.0, reduction="none")
    np.testing.assert_allclose(ssim(a, b), expected, atol=2e-5)


def test_psnr_is_torchmetrics():
    a, b = patched()
    expected = [float(peak_signal_noise_ratio(x, y, data_range=1.0)) for x, y in zip(tensor(a), tensor(b), strict=True)]
    np.testing.assert_allclose(psnr(*squared_errors(a, b)), expected, atol=1e-4)


def test_psnr_over_a_mask_by_hand():
    a = np.zeros((1, 4, 4, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 30  # one of two masked pixels: mean square 450
    b[0, 3, 3] = 255
    where = np.zeros((1, 4, 4), bool)
    where[0, 0, :2] = True
    assert psnr(*squared_errors(a, b, where))[0] == pytest.approx(10 * np.log10(255**2 / 450))
    assert np.isnan(psnr(*squared_errors(a, b, np.zeros_like(where)))[0])


def test_iou_by_hand():
    a, b = np.zeros((2, 3, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    a[1] = True
    np.testing.assert_allclose(iou(a, b), [4 / 12, 0, 1])


def test_lab_of_known_colours():
    known = {(255, 255, 255): (100, 0, 0), (0, 0, 0): (0, 0, 0), (255, 0, 0): (53.24, 80.09, 67.20)}
    for rgb, expected in known.items():
        np.testing.assert_allclose(lab(np.array(rgb, np.uint8)), expected, atol=0.05)


def test_colour_shift_sees_colour_and_not_shape():
    red = np.full((1, 8, 8, 3), (255, 0, 0), np.uint8)
    black = np.zeros_like(red)
    half, other, none = np.zeros((3, 1, 8, 8), bool)
    half[0, :4], other[0, 4:] = True, True
    assert colour_shift(red, half, red, other)[0] == pytest.approx(0)
    assert colour_shift(red, half, black, other)[0] == pytest.approx(np.linalg.norm([53.24, 80.09, 67.20]), abs=0.1)
    assert np.isnan(colour_shift(red, none, black, other)[0])


def test_equal_pictures_score_the_best_there_is_and_it_is_finite(bodies):
    views, masks = bodies[0].views, bodies[0].alpha > 127
    figures = scores(views, masks, views, masks, 0)
    assert set(figures) == {metric.name for metric in METRICS}
    assert figures["foreground_iou"].all_views == 1
    assert figures["ssim"].all_views == pytest.approx(1)
    assert figures["psnr"].all_views == figures["foreground_psnr"].novel_views == pytest.approx(BEST_PSNR)
    assert figures["colour_shift"].all_views == pytest.approx(0)


def test_one_perfect_view_does_not_outweigh_five_wrong_ones(bodies):
    truth, masks = bodies[0].views, bodies[0].alpha > 127
    wrong = np.full_like(truth, 128)
    one_right = wrong.copy()
    one_right[2] = truth[2]
    nothing, one = (scores(views, masks, truth, masks, 2) for views in (wrong, one_right))
    assert one["psnr"].per_view[2] == pytest.approx(BEST_PSNR)
    assert 0 < one["psnr"].all_views - nothing["psnr"].all_views < 1
    assert one["psnr"].novel_views == pytest.approx(nothing["psnr"].novel_views)


def test_the_reference_view_is_left_out_of_the_novel_figures(bodies):
    truth, masks = bodies[0].views, bodies[0].alpha > 127
    views = truth.copy()
    views[3] = 255
    empty = masks.copy()
    empty[3] = False
    figures = scores(views, empty, truth, masks, 3)
    assert figures["foreground_iou"].novel_views == 1
    assert figures["foreground_iou"].all_views == pytest.approx(5 / 6)
    assert figures["psnr"].novel_views == pytest.approx(BEST_PSNR)
    assert figures["psnr"].all_views < 40


def test_a_picture_that_is_all_wrong_scores_nothing():
    """Its squared errors sum to more than 2^31."""
    white, black = np.full((6, 320, 320, 3), 255, np.uint8), np.zeros((6, 320, 320, 3), np.uint8)
    total, count = squared_errors(white, black)
    assert total.tolist() == [255.0**2 * 320 * 320 * 3] * 6
    assert psnr(total, count).tolist() == [0.0] * 6
