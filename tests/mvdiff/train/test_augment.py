import colorsys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.evaluate.consistency import consistency
from mvdiff.evaluate.foreground import foreground
from mvdiff.framing import on_white
from mvdiff.mouse.anatomy import random_build
from mvdiff.mouse.coat import random_coat
from mvdiff.mouse.mesh import Mesh
from mvdiff.mouse.pose import random_pose
from mvdiff.mouse.render import draw, place
from mvdiff.rig import RIGS, Rig, angle_between, angles, field_of_view, look_at_origin
from mvdiff.shard import Sample
from mvdiff.train.augment import Colour, Variation, Window, cut, mirrored, recoloured

SIZE = 96
MOUSE = RIGS["mouse"]
SYMMETRIC = [
    MOUSE,
    RIGS["zero123plus-v1.2"],
    Rig("tilted", (40.0, 100.0, 160.0, 220.0, 280.0, 340.0), (20.0, -10.0, 5.0, 30.0, 5.0, -10.0), 30.0, 1.9),
]
LOPSIDED = Rig("lopsided", (0.0, 50.0, 120.0, 180.0, 240.0, 300.0), (0.0,) * 6, 30.0, 1.87)

seeds = st.integers(0, 2**32 - 1)
factors = st.floats(0.5, 1.5)
colours = st.builds(Colour, factors, factors, factors, st.floats(-0.5, 0.5))


@st.composite
def windows(draw, least=0.5):
    side = draw(st.floats(least, 1))
    left, top = (draw(st.floats(0, 1)) * (1 - side) for _ in range(2))
    return Window(left, top, side)


def sample_of(rig, views, alpha=None, size=None, name="one"):
    return Sample(
        name, "recording", views, alpha, rig.w2c(), rig.intrinsics(size or views.shape[1]),
        np.float32(rig.azimuth), np.float32(rig.elevation),
    )  # fmt: skip


def painted(seed, size=16, with_alpha=True, rig=MOUSE):
    """Random colours under a random coverage, of which a third is none and a third full."""
    chance = np.random.default_rng(seed)
    alpha = np.clip(chance.integers(-255, 510, (6, size, size)), 0, 255).astype(np.uint8)
    rgb = chance.integers(0, 256, (6, size, size, 3), np.uint8)
    views = on_white(np.concatenate([rgb, alpha[..., None]], -1))
    return sample_of(rig, views, alpha if with_alpha else None)


def cameras_close(a, b):
    assert np.allclose(a.w2c, b.w2c, atol=1e-5) and np.allclose(a.intrinsics, b.intrinsics, atol=1e-3)
    assert angle_between(a.azimuth, b.azimuth).max() < 1e-3 and np.allclose(a.elevation, b.elevation)


@pytest.fixture(scope="module")
def meshes():
    """Mice, lit, facing where their left and right sides show."""

    def mesh(number):
        chance = np.random.default_rng(number)
        return place(random_build(chance), random_pose(chance), random_coat(chance), 35.0 + 100 * number)

    return [mesh(number) for number in range(2)]


# Mirrored.


@given(seeds, st.sampled_from(SYMMETRIC), st.booleans())
def test_mirrored_twice_is_the_identity(seed, rig, with_alpha):
    sample = painted(seed, with_alpha=with_alpha, rig=rig)
    once, twice = mirrored(sample, rig), mirrored(mirrored(sample, rig), rig)
    assert np.array_equal(twice.views, sample.views) and not np.array_equal(once.views, sample.views)
    assert (twice.alpha is None) == (sample.alpha is None)
    assert sample.alpha is None or np.array_equal(twice.alpha, sample.alpha)
    cameras_close(twice, sample)
    if rig is MOUSE:
        assert np.array_equal(twice.w2c, sample.w2c) and np.array_equal(twice.intrinsics, sample.intrinsics)


@pytest.mark.parametrize("rig", SYMMETRIC, ids=lambda rig: rig.name)
def test_the_mirrored_sample_is_a_picture_of_the_mirrored_mouse(meshes, rig):
    across = np.deg2rad(2 * rig.azimuth[0])
    # Reflection in the upright plane through the origin and view 0.
    mirror = np.array([[np.cos(across), np.sin(across), 0], [np.sin(across), -np.cos(across), 0], [0, 0, 1]])
    for mesh in meshes:
        other = Mesh(
            mesh.vertices @ mirror, mesh.normals @ mirror, mesh.colours, mesh.occlusion, mesh.triangles[:, ::-1]
        )
        found = mirrored(sample_of(rig, *draw(mesh, rig, SIZE)), rig)
        views, alpha = draw(other, rig, SIZE)
        assert np.abs(found.views.astype(int) - views).mean() < 0.05
        assert np.abs(found.alpha.astype(int) - alpha).mean() < 0.05
        cameras_close(found, sample_of(rig, views))
        unflipped = draw(mesh, rig, SIZE)[0]
        assert np.abs(unflipped.astype(int) - views).mean() > 1


def test_a_mirrored_mouse_is_as_consistent_as_it_was(meshes):
    def silhouette(sample):
        return consistency(sample.views, foreground(sample.views), sample.w2c, sample.intrinsics)["silhouette"]

    for mesh in meshes:
        sample = sample_of(MOUSE, draw(mesh, MOUSE, SIZE)[0])
        flipped = mirrored(sample, MOUSE)
        assert silhouette(flipped) == pytest.approx(silhouette(sample), abs=0.005)
        in_place = replace(sample, views=np.ascontiguousarray(sample.views[:, :, ::-1]))
        assert silhouette(in_place) < silhouette(flipped) - 0.05


@given(seeds)
def test_mirrored_cameras_are_those_that_their_numbers_say(seed):
    """With cameras that are off the rig, off centre and each of its own focal length."""
    chance = np.random.default_rng(seed)
    sample = painted(seed)
    azimuth, elevation = (np.float32(np.add(own, chance.uniform(-1, 1, 6))) for own in (MOUSE.azimuth, MOUSE.elevation))
    intrinsics = sample.intrinsics * np.float32(chance.uniform(0.9, 1.1, (6, 3, 1)))
    intrinsics[:, 2] = 0, 0, 1
    w2c = look_at_origin(azimuth, elevation, chance.uniform(1.8, 2.0, 6))
    sample = replace(sample, azimuth=azimuth, elevation=elevation, w2c=w2c, intrinsics=intrinsics)
    flipped = mirrored(sample, MOUSE)
    found, up, distance = angles(flipped.w2c)
    assert angle_between(found, flipped.azimuth).max() < 1e-3 and np.abs(up - flipped.elevation).max() < 1e-3
    assert MOUSE.differs(flipped.azimuth, flipped.elevation, 1.01) is None
    order = [0, 5, 4, 3, 2, 1]
    assert np.allclose(distance, angles(sample.w2c)[2][order])
    assert np.allclose(field_of_view(flipped.intrinsics, 16), field_of_view(sample.intrinsics, 16)[order])
    point = chance.uniform(-0.3, 0.3, 3)
    before, after = projected(sample, point), projected(flipped, point * [1, -1, 1])
    assert np.allclose(after, np.stack([16 - before[order, 0], before[order, 1]], -1), atol=1e-3)


def projected(sample, point):
    """Pixels [6, 2] at which the six cameras see ``point`` [3]."""
    x = np.einsum("kij,kj->ki", sample.intrinsics, sample.w2c[:, :3, :3] @ point + sample.w2c[:, :3, 3])
    return x[:, :2] / x[:, 2:]


def test_a_rig_that_is_not_its_own_mirror_image_cannot_be_mirrored():
    with pytest.raises(InputError, match=r"lopsided .* not its own mirror image: set train\.augment\.flip=0"):
        mirrored(painted(0, rig=LOPSIDED), LOPSIDED)


# Recoloured.


@given(seeds, colours, st.booleans())
def test_white_stays_white_and_the_condition_is_treated_as_the_target(seed, colour, with_alpha):
    sample = painted(seed, with_alpha=with_alpha)
    changed = recoloured(sample, colour)
    white = sample.alpha == 0 if with_alpha else (sample.views == 255).all(-1)
    assert white.any() and (changed.views[white] == 255).all()
    turned = replace(sample, views=sample.views[[3, 4, 5, 0, 1, 2]].copy(),
                     alpha=sample.alpha[[3, 4, 5, 0, 1, 2]] if with_alpha else None)  # fmt: skip
    assert np.array_equal(recoloured(turned, colour).views, changed.views[[3, 4, 5, 0, 1, 2]])
    # One map of colours, whatever the view: pixels that were the same are the same.
    views = sample.views.copy()
    views[1] = views[0]
    alpha = None if sample.alpha is None else np.concatenate([sample.alpha[:1], sample.alpha[:1], sample.alpha[2:]])
    views = recoloured(replace(sample, views=views, alpha=alpha), colour).views
    assert np.array_equal(views[0], views[1])


@given(seeds, st.booleans())
def test_no_change_of_colour_changes_nothing(seed, with_alpha):
    sample = painted(seed, with_alpha=with_alpha)
    assert np.array_equal(recoloured(sample, Colour(1.0, 1.0, 1.0, 0.0)).views, sample.views)


def flat(*colours):
    """Views that show one colour each on their left half, in full cover."""
    views = np.full((6, 16, 16, 3), 255, np.uint8)
    alpha = np.zeros((6, 16, 16), np.uint8)
    alpha[:, :, :8] = 255
    for view, colour in zip(views, colours, strict=True):
        view[:, :8] = colour
    return sample_of(MOUSE, views, alpha)


def test_each_change_does_what_it_is_called():
    sample = flat((200, 100, 60), (90, 90, 90), (120, 60, 30), (30, 40, 50), (160, 150, 140), (80, 120, 100))
    before = sample.views[:, 0, 0].astype(float)
    luma = before @ [0.299, 0.587, 0.114]

    def after(**changes):
        neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
        return recoloured(sample, Colour(**neutral | changes)).views[:, 0, 0].astype(float)

    assert np.abs(after(brightness=0.7) - 0.7 * before).max() <= 0.51
    assert np.abs(after(contrast=0.5) - (0.5 * before + 0.5 * luma.mean())).max() <= 0.51
    assert np.abs(after(saturation=0.0) - luma[:, None]).max() <= 0.51
    assert np.abs(after(saturation=1.2) - (1.2 * before - 0.2 * luma[:, None])).max() <= 0.51
    turned = after(hue=0.1)
    unclipped = turned.min(1) > 0
    assert unclipped.sum() == 4 and np.abs(turned @ [0.299, 0.587, 0.114] - luma)[unclipped].max() <= 0.51
    assert np.array_equal(turned[1], before[1])
    assert after(hue=1 / 3)[0].argmax() == 1 and after(hue=-1 / 3)[0].argmax() == 2


@given(st.floats(-0.15, 0.15), st.tuples(*[st.integers(60, 160)] * 3).filter(lambda c: max(c) - min(c) > 30))
def test_hue_turns_the_way_and_about_as_far_as_on_the_usual_circle(share, colour):
    found = recoloured(flat(*[colour] * 6), Colour(1.0, 1.0, 1.0, share)).views[0, 0, 0]
    turned = colorsys.rgb_to_hsv(*found / 255)[0] - colorsys.rgb_to_hsv(*(value / 255 for value in colour))[0]
    assert (turned - share + 0.5) % 1 - 0.5 == pytest.approx(0, abs=0.09)


@given(colours, st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 254))
def test_a_half_covered_pixel_is_half_the_changed_colour(colour, rgb, cover):
    """What the edge of a subject shows is its changed colour over white, as if it had been painted so."""
    sample = flat(*[rgb] * 6)
    inside = recoloured(sample, colour).views[0, 0, 0]
    alpha = np.minimum(sample.alpha, cover)
    thin = replace(sample, alpha=alpha, views=on_white(np.dstack([*np.broadcast_arrays(*rgb, alpha[0])]).astype(
        np.uint8)[None].repeat(6, 0)))  # fmt: skip
    found = recoloured(thin, colour).views[0, 0, 0].astype(float)
    expected = on_white(np.array([*inside, cover], np.uint8)).astype(float)
    unclipped = (inside > 0) & (inside < 255)
    # The stored pixel is rounded, which a thin cover makes much of where colours are stretched; and so is the mean.
    assert np.abs(found - expected)[unclipped].max(initial=0) <= 8


def test_an_empty_sample_stays_empty():
    sample = replace(painted(0), views=np.full((6, 16, 16, 3), 255, np.uint8), alpha=np.zeros((6, 16, 16), np.uint8))
    assert (recoloured(sample, Colour(0.5, 0.5, 0.5, 0.5)).views == 255).all()


# Cut.


@hypothesis_settings(deadline=None)
@given(windows(), seeds, st.sampled_from([MOUSE, *SYMMETRIC[1:]]))
def test_a_point_is_seen_where_the_new_cameras_say(window, seed, rig):
    size = 96
    point = np.random.default_rng(seed).uniform(-0.2, 0.2, 3)
    sample = sample_of(rig, np.full((6, size, size, 3), 255, np.uint8))
    y, x = np.mgrid[:size, :size] + 0.5
    for view, (u, v) in zip(sample.views, projected(sample, point), strict=True):
        view[:] = np.round(255 - 200 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 3.0**2)))[..., None]
    found = cut(sample, window)
    assert found.size == size and np.array_equal(found.w2c, sample.w2c)
    seen = 0
    for view, (u, v) in zip(found.views, projected(found, point), strict=True):
        margin = 10 / window.side
        if margin < u < size - margin and margin < v < size - margin:
            weight = 255.0 - view[..., 0]
            centre = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
            assert centre == pytest.approx((u, v), abs=0.1)
            seen += 1
    assert seen or window.side < 0.8
    fov = field_of_view(found.intrinsics, size)
    assert np.tan(np.deg2rad(fov / 2)) == pytest.approx(window.side * np.tan(np.deg2rad(rig.fov / 2)), rel=1e-5)


@given(seeds, windows())
def test_all_views_are_cut_alike_and_white_stays_white(seed, window):
    sample = painted(seed)
    same = replace(sample, views=sample.views[[2] * 6].copy(), alpha=sample.alpha[[2] * 6].copy())
    found = cut(same, window)
    assert all(np.array_equal(view, found.views[0]) for view in found.views)
    assert all(np.array_equal(alpha, found.alpha[0]) for alpha in found.alpha)
    blank = replace(sample, views=np.full_like(sample.views, 255))
    assert (cut(blank, window).views == 255).all()


@given(seeds)
def test_the_whole_window_is_the_identity(seed):
    sample = painted(seed)
    found = cut(sample, Window(0.0, 0.0, 1.0))
    assert np.array_equal(found.views, sample.views) and np.array_equal(found.intrinsics, sample.intrinsics)


@pytest.mark.parametrize("size", [7, 96, 320])
def test_rounding_leaves_no_window_outside_the_picture(size):
    sample = sample_of(MOUSE, np.full((6, size, size, 3), 255, np.uint8))
    for side in np.linspace(0.5, 1, 60).tolist():
        cut(sample, Window(1 - side, 1 - side, side))


# All together.


def test_nothing_to_vary_is_the_sample_itself():
    sample = painted(0)
    assert Variation(flip=False, colour=None, window=None).applied(sample, LOPSIDED) is sample


@given(seeds, colours, windows(), st.booleans())
def test_a_variation_is_its_parts_and_leaves_the_sample_alone(seed, colour, window, with_alpha):
    sample, untouched = painted(seed, with_alpha=with_alpha), painted(seed, with_alpha=with_alpha)
    found = Variation(True, colour, window).applied(sample, MOUSE)
    expected = cut(mirrored(recoloured(sample, colour), MOUSE), window)
    assert np.array_equal(found.views, expected.views) and np.array_equal(found.intrinsics, expected.intrinsics)
    assert np.array_equal(found.w2c, expected.w2c)
    assert sample.checksum() == untouched.checksum()
    assert Variation(False, colour, None).applied(sample, MOUSE).size == sample.size
