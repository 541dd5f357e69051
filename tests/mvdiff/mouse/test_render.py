"""What the drawn mice promise: purity, one animal in six views, coverage as alpha, headings, a place in the frame."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.mouse.heading import Heading
from mvdiff.mouse.render import FRAMES, render_mouse
from mvdiff.rig import Rig, rig
from mvdiff.shard.schema import Sample

MOUSE = rig("mouse")
SIZE = 96


@lru_cache(maxsize=256)
def mouse(index: int, heading: str = "front-or-side", size: int = SIZE, cameras: Rig = MOUSE) -> Sample:
    return render_mouse(3, index, rig=cameras, size=size, heading=Heading.parse(heading))


def turned(degrees: float) -> Rig:
    return Rig("turned", tuple(a + degrees for a in MOUSE.azimuth), MOUSE.elevation, MOUSE.fov, MOUSE.distance)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def hull_overlap(sample: Sample, steps: int = 240, stride: int = 12) -> np.ndarray:
    """IoU [6] of each mask with the silhouette of the visual hull of all six.

    The hull's silhouette lies inside the mask: what counts is the share of its pixels (every ``stride``-th is tried)
    whose line of sight somewhere meets all other masks.
    """
    masks, size = sample.alpha > 127, sample.size
    depths = MOUSE.distance + np.linspace(-0.47, 0.47, steps)
    result = []
    for view, (mask, w2c, k) in enumerate(zip(masks, sample.w2c, sample.intrinsics, strict=True)):
        row, column = (i[::stride] for i in np.nonzero(mask))
        ray = np.stack([(column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(row))], -1)
        point = (ray[:, None] * depths[:, None] - w2c[:3, 3]) @ w2c[:3, :3]
        pixel, point = np.repeat(np.arange(len(row)), steps), point.reshape(-1, 3)
        for other in range(6):
            if other == view:
                continue
            seen = point @ sample.w2c[other, :3, :3].T + sample.w2c[other, :3, 3]
            u, v = (np.floor(seen[:, i] / seen[:, 2] * k[i, i] + k[i, 2]).astype(int) for i in (0, 1))
            keep = masks[other][np.clip(v, 0, size - 1), np.clip(u, 0, size - 1)]
            pixel, point = pixel[keep], point[keep]
        result.append(len(np.unique(pixel)) / len(row))
    return np.array(result)


def digest(index: int) -> str:
    sample = render_mouse(3, index, rig=MOUSE, size=SIZE, heading=Heading.parse("any"))
    return hashlib.sha256(sample.views.tobytes() + sample.alpha.tobytes()).hexdigest()


def test_a_mouse_depends_on_nothing_but_its_arguments():
    forth = [digest(i) for i in range(4)]
    back = [digest(i) for i in reversed(range(4))]
    assert forth == back[::-1]
    assert len(set(forth)) == 4


def test_another_process_with_another_thread_count_draws_the_same_bytes():
    program = (
        "import hashlib; from mvdiff.mouse.render import render_mouse; from mvdiff.mouse.heading import Heading;"
        "from mvdiff.rig import rig;"
        f"s = render_mouse(3, 2, rig=rig('mouse'), size={SIZE}, heading=Heading.parse('any'));"
        "print(hashlib.sha256(s.views.tobytes() + s.alpha.tobytes()).hexdigest())"
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "3")
    other = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **threads}, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == digest(2)


def test_another_seed_is_another_mouse():
    other = render_mouse(4, 0, rig=MOUSE, size=SIZE, heading=Heading.parse("front-or-side"))
    assert (other.views != mouse(0).views).any()
    assert other.sample_id != mouse(0).sample_id


def test_a_recording_is_one_animal_in_several_poses():
    ours = [mouse(i, "90") for i in range(2 * FRAMES)]
    assert len({s.recording for s in ours[:FRAMES]}) == len({s.recording for s in ours[FRAMES:]}) == 1
    assert ours[0].recording != ours[FRAMES].recording
    assert len({s.sample_id for s in ours}) == 2 * FRAMES

    def coat(sample: Sample) -> np.ndarray:
        return np.median(sample.views[0][sample.alpha[0] == 255], 0)

    within = max(np.abs(coat(s) - coat(ours[0])).max() for s in ours[:FRAMES])
    between = np.abs(coat(ours[FRAMES]) - coat(ours[0])).max()
    assert within < between
    assert all((a.alpha != b.alpha).any() for a, b in pairwise(ours[:FRAMES]))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_all_six_views_differ(index: int):
    views = mouse(index, "any").views.astype(int)
    for a in range(6):
        for b in range(a):
            assert np.abs(views[a] - views[b]).mean() > 0.5


@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_the_six_silhouettes_are_those_of_one_solid(index: int):
    sample = mouse(index, "any", 320)
    assert hull_overlap(sample).min() >= 0.98
    swapped = dataclasses.replace(sample, alpha=sample.alpha[[1, 0, 2, 3, 4, 5]])
    assert hull_overlap(swapped).min() < 0.9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_alpha_is_coverage_over_white(index: int):
    sample = mouse(index, "any")
    views, alpha = sample.views.astype(int), sample.alpha.astype(int)
    assert (views[alpha == 0] == 255).all()
    # what is seen of the mouse is never brighter than white: white's share is 1 - alpha
    assert (views.min(-1) >= 255 - alpha - 1).all()
    # and where nothing of it shows through, even a white mouse stands out
    assert (views[alpha == 255].min(-1) <= 240).all()
    edge = (alpha > 0) & (alpha < 255)
    assert 0.01 < edge.sum() / (alpha > 0).sum() < 0.5
    # coverage adds up: the soft and the hard silhouette are of one size
    assert (alpha / 255).sum() == pytest.approx((alpha > 127).sum(), rel=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_mouse_fills_the_frame_and_touches_no_border(index: int):
    for mask in mouse(index, "any").alpha:
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert not border.any()
        assert 0.02 < (mask > 127).mean() < 0.35


def eyes_and_ears(view: np.ndarray, alpha: np.ndarray) -> tuple[int, int]:
    """Pixels of skin colour in the upper half of the animal (inside of the ears), and of near black."""
    rows = np.flatnonzero(alpha.max(1))
    upper = slice(rows[0], (rows[0] + rows[-1]) // 2)
    r, g, b = (view[upper, :, i].astype(int) for i in range(3))
    solid = alpha[upper] == 255
    return int((solid & (r - g > 30) & (np.abs(g - b) < 30)).sum()), int((solid & (r < 45) & (g < 45) & (b < 45)).sum())


def light_coats(count: int, heading: str) -> list[Sample]:
    """Mice on which eyes and ears stand out: pale, unpatched coats."""
    found = []
    for index in range(0, 400, FRAMES):
        small = mouse(index, "90", 64)
        coat = small.views[0][small.alpha[0] == 255]
        if coat.mean() > 150 and np.ptp(np.median(coat, 0)) < 60:
            found.append(mouse(index, heading, 240))
        if len(found) == count:
            return found
    raise AssertionError("too few pale mice")


def test_a_mouse_that_faces_the_camera_shows_its_eyes_and_ears_there_and_not_from_behind():
    for sample in light_coats(4, "0"):
        front, back = eyes_and_ears(sample.views[0], sample.alpha[0]), eyes_and_ears(sample.views[3], sample.alpha[3])
        assert front[0] > 40 + 3 * back[0]
        assert front[1] > 8
        assert back[1] == 0


def spread(alpha: np.ndarray) -> int:
    return int(np.ptp(np.flatnonzero((alpha > 127).any(0))))


def test_side_shows_the_length_nose_to_the_right_and_front_does_not():
    for index in range(0, 40, FRAMES):
        side, front = mouse(index, "90"), mouse(index, "0")
        assert spread(side.alpha[0]) > 1.4 * spread(front.alpha[0])
        columns = (side.alpha[0] > 127).sum(0)
        used = np.flatnonzero(columns)
        # the tail, at the left end, is thinner than the head
        tenth = len(used) // 6
        assert columns[used[:tenth]].mean() < columns[used[-tenth:]].mean()


@pytest.mark.parametrize("degrees", [60.0, 120.0, 180.0, 300.0])
def test_turning_the_mouse_is_going_round_it_the_other_way(degrees: float):
    sample, turn = mouse(8, "40"), mouse(8, f"{40 - degrees:g}")
    for k in range(6):
        seen_from = int((MOUSE.azimuth[k] + degrees) % 360 // 60)
        assert overlap(sample.alpha[seen_from] > 127, turn.alpha[k] > 127) > 0.995
        difference = np.abs(sample.alpha[seen_from].astype(int) - turn.alpha[k])
        assert (difference > 30).mean() < 1e-3
        # only the light, which stands still, tells them apart
        both = (sample.alpha[seen_from] == 255) & (turn.alpha[k] == 255)
        assert np.abs(sample.views[seen_from].astype(int) - turn.views[k])[both].mean() < 30


def test_cameras_turned_by_an_angle_see_the_mouse_turned_back():
    a, b = mouse(4, "75"), mouse(4, "50", cameras=turned(-25.0))
    assert all(overlap(a.alpha[k] > 127, b.alpha[k] > 127) > 0.99 for k in range(6))


def test_the_picture_is_the_same_at_another_resolution():
    small, large = mouse(12, "any", 80), mouse(12, "any", 240)
    shrunk = large.alpha.reshape(6, 80, 3, 80, 3).mean((2, 4))
    assert np.abs(shrunk - small.alpha).mean() < 1.0


def test_cameras_are_those_of_the_rig():
    sample = mouse(0)
    np.testing.assert_array_equal(sample.w2c, MOUSE.w2c())
    np.testing.assert_array_equal(sample.intrinsics, MOUSE.intrinsics(SIZE))
    assert sample.azimuth.tolist() == list(MOUSE.azimuth)


def test_a_sample_takes_well_under_three_seconds_of_processor_time():
    heading = Heading.parse("any")
    render_mouse(3, 0, rig=MOUSE, size=320, heading=heading)
    before = sum(os.times()[:2])
    for index in range(2):
        render_mouse(3, index, rig=MOUSE, size=320, heading=heading)
    assert (sum(os.times()[:2]) - before) / 2 < 3.0
