"""The FaceLift layout with all its variants, and every way in which it can be wrong."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.facelift import CAMERAS, find_samples, read_sample, write_sample
from mvdiff.framing import Framing, on_white
from mvdiff.rig import look_at_origin, rig
from mvdiff.shard import Sample

SIZE = 32
MOUSE = rig("mouse")


def make_sample(seed: int = 0, size: int = SIZE, with_alpha: bool = True) -> Sample:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (6, size, size, 3), np.uint8)
    alpha = rng.integers(0, 256, (6, size, size), np.uint8)
    views = on_white(np.concatenate([rgb, alpha[..., None]], -1)) if with_alpha else rgb
    return Sample(
        f"mouse-{seed:03d}",
        f"cage-{seed // 2}",
        views,
        alpha if with_alpha else None,
        MOUSE.w2c(),
        MOUSE.intrinsics(size),
        np.array(MOUSE.azimuth, np.float32),
        np.array(MOUSE.elevation, np.float32),
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    write_sample(tmp_path / "sample_000000", make_sample())
    return tmp_path / "sample_000000"


def edit(folder: Path, change) -> None:
    """Change the camera file: ``change(content)`` in place."""
    content = json.loads((folder / CAMERAS).read_text())
    change(content)
    (folder / CAMERAS).write_text(json.dumps(content))


def picture(folder: Path, view: int = 0) -> Path:
    return folder / "images" / f"cam_{view:03d}.png"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), size=st.integers(2, 24), with_alpha=st.booleans())
def test_what_is_written_is_read_again(tmp_path_factory, seed, size, with_alpha):
    sample = make_sample(seed, size, with_alpha)
    folder = tmp_path_factory.mktemp("samples") / "s"
    write_sample(folder, sample)
    back = read_sample(folder, size=size, rig=MOUSE)
    for name in ("views", "alpha", "w2c", "intrinsics"):
        assert np.array_equal(getattr(back, name), getattr(sample, name)), name
    assert (back.sample_id, back.recording) == (sample.sample_id, sample.recording)
    assert np.allclose(back.azimuth, sample.azimuth, atol=1e-3)
    assert np.allclose(back.elevation, sample.elevation, atol=1e-3)


def test_a_sample_is_never_written_over_another_one(tmp_path):
    write_sample(tmp_path / "s", make_sample())
    with pytest.raises(InputError, match="exists"):
        write_sample(tmp_path / "s", make_sample())


def test_optional_keys_may_be_missing(folder):
    def strip(content):
        del content["id"], content["recording"]
        for frame in content["frames"]:
            for key in ("w", "h", "fy", "cx", "cy", "view_id", "file_path"):
                del frame[key]

    edit(folder, strip)
    sample, expected = read_sample(folder, size=SIZE, rig=MOUSE), make_sample()
    assert (sample.sample_id, sample.recording) == ("sample_000000", "sample_000000")
    assert np.array_equal(sample.intrinsics, expected.intrinsics)
    assert np.array_equal(sample.views, expected.views)


def test_views_are_ordered_by_their_number(folder):
    edit(folder, lambda content: content["frames"].reverse())
    assert np.array_equal(read_sample(folder, size=SIZE, rig=MOUSE).views, make_sample().views)


def test_the_two_focal_lengths_may_differ(folder):
    edit(folder, lambda content: [frame.update(fx=100.0, fy=110.0) for frame in content["frames"]])
    k = read_sample(folder, size=2 * SIZE, rig=MOUSE).intrinsics[3]
    assert (k[0, 0], k[1, 1], k[0, 2], k[1, 2]) == (200, 220, SIZE, SIZE)


@pytest.mark.parametrize("key", ["recording", "session", "animal"])
def test_the_recording_is_named_by_a_key_or_found_in_the_id(folder, key):
    edit(folder, lambda content: (content.pop("recording"), content.update({key: "cage-7", "id": "m12_0003"})))
    assert read_sample(folder).recording == "cage-7"
    assert read_sample(folder, recording_pattern=re.compile(r"^(m\d+)_")).recording == "m12"
    assert read_sample(folder, recording_pattern=re.compile(r"m\d+_")).recording == "m12_"
    with pytest.raises(InputError, match="m12_0003 has no recording"):
        read_sample(folder, recording_pattern=re.compile("rat"))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "1"])
def test_pictures_of_any_kind_are_taken(folder, mode):
    for view in range(6):
        with Image.open(picture(folder, view)) as opened:
            opened.convert("RGB").convert(mode).save(picture(folder, view))
    with Image.open(picture(folder, 2)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    sample = read_sample(folder, size=SIZE, rig=MOUSE)
    assert np.array_equal(sample.views[2], expected)
    assert sample.alpha is None


def test_a_palette_may_have_a_transparent_colour(folder):
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[8:] = 1
    for view in range(6):
        palette = Image.fromarray(pixels).convert("P")
        palette.putpalette([10, 20, 30, 40, 50, 60])
        palette.save(picture(folder, view), transparency=0)
    sample = read_sample(folder)
    assert sample.alpha[0, 0, 0] == 0 and sample.alpha[0, 8, 0] == 255
    assert sample.views[0, 0, 0].tolist() == [255] * 3 and sample.views[0, 8, 0].tolist() == [40, 50, 60]


def test_sixteen_bits_of_grey_become_eight(folder):
    for view in range(6):
        Image.fromarray(np.full((SIZE, SIZE), 0x8055, np.uint16)).save(picture(folder, view))
    assert (read_sample(folder).views == 0x80).all()


def test_alpha_is_unknown_unless_all_views_have_some(folder):
    with Image.open(picture(folder, 5)) as opened:
        opened.convert("RGB").save(picture(folder, 5))
    assert read_sample(folder).alpha is None
    for view in range(6):
        with Image.open(picture(folder, view)) as opened:
            opened.convert("RGB").convert("RGBA").save(picture(folder, view))
    assert read_sample(folder).alpha is None


def test_a_list_names_one_folder_a_line(tmp_path, folder):
    write_sample(tmp_path / "b", make_sample(1))
    (tmp_path / "list.txt").write_text(f"# mine\n{folder}\n\n  b \nb\nmissing\n")
    assert find_samples(tmp_path / "list.txt") == [folder, tmp_path / "b", tmp_path / "missing"]
    with pytest.raises(InputError, match=r"missing/opencv_cameras\.json does not exist"):
        read_sample(tmp_path / "missing")


def test_samples_are_found_at_any_depth(tmp_path, folder):
    write_sample(tmp_path / "x" / "y" / "b", make_sample(1))
    (tmp_path / "x" / "no-cameras" / "images").mkdir(parents=True)
    (tmp_path / "x" / ".b.part" / "images").mkdir(parents=True)
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    (tmp_path / "x" / "notes").mkdir()
    assert find_samples(tmp_path) == [folder, tmp_path / "x" / "no-cameras", tmp_path / "x" / "y" / "b"]
    assert find_samples(folder) == [folder]


@pytest.mark.parametrize("content", ["", "# nothing\n\n", b"\xff\xfe\0binary"])
def test_a_list_of_nothing_is_refused(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"list\.txt"):
        find_samples(tmp_path / "list.txt")


def test_no_source_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_samples(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no samples"):
        find_samples(tmp_path)


def frames(change):
    return lambda folder: edit(folder, lambda content: change(content["frames"]))


def frame(**values):
    return frames(lambda all_frames: all_frames[2].update(values))


def content(**values):
    return lambda folder: edit(folder, lambda all_content: all_content.update(values))


def written(text):
    return lambda folder: (folder / CAMERAS).write_bytes(text)


def cut(share):
    def change(folder):
        whole = picture(folder, 3).read_bytes()
        picture(folder, 3).write_bytes(whole[: int(share * len(whole))])

    return change


def flip_in_picture(folder):
    whole = bytearray(picture(folder, 3).read_bytes())
    whole[len(whole) // 2] ^= 1
    picture(folder, 3).write_bytes(whole)


def big_picture(folder):
    Image.new("1", (9000, 10)).save(picture(folder, 3))


W2C = look_at_origin(120.0, 0.0, 2.0)
BAD = {
    "five views": (frames(lambda f: f.pop()), "has 5 views"),
    "seven views": (frames(lambda f: f.append({**f[0], "view_id": 6})), "has 7 views"),
    "no cameras": (lambda folder: (folder / CAMERAS).unlink(), "does not exist"),
    "no picture": (lambda folder: picture(folder, 4).unlink(), "cam_004.png does not exist"),
    "mixed sizes": (
        lambda folder: Image.new("RGB", (8, 9)).save(picture(folder, 4)),
        "mixes pictures of 8x9 and 32x32",
    ),
    "not JSON": (written(b"{frames:"), "is not JSON"),
    "not text": (written(b"\xff\xfe\0\0"), "is not JSON"),
    "deep JSON": (written(b"[" * 100_000), "is not JSON"),
    "no frames": (written(b"[]"), "no list of frames"),
    "a frame that is none": (frames(lambda f: f.__setitem__(2, 7)), "no JSON object"),
    "no w2c": (frames(lambda f: f[2].pop("w2c")), "frame 2 lacks w2c"),
    "w2c of words": (frame(w2c="identity"), "frame 2"),
    "w2c 3x4": (frame(w2c=W2C[:3].tolist()), r"shape \[3, 4\]"),
    "w2c not finite": (frame(w2c=(W2C * np.nan).tolist()), "not finite"),
    "w2c transposed": (frame(w2c=W2C.T.tolist()), "no rigid motion"),
    "w2c scaled": (frame(w2c=(W2C * 2).tolist()), "no rigid motion"),
    "w2c mirrored": (frame(w2c=(np.diag([-1, 1, 1, 1]) @ W2C).tolist()), "no rigid motion"),
    "OpenGL axes": (frame(w2c=(np.diag([1, -1, -1, 1]) @ W2C).tolist()), "does not look at the origin"),
    "other cameras": (
        frame(w2c=look_at_origin(135.0, 0.0, 2.0).tolist()),
        "rig 'mouse': view 2 at azimuth 135 elevation 0 instead of 120 0",
    ),
    "elevated": (frame(w2c=look_at_origin(120.0, 20.0, 2.0).tolist()), "elevation 20"),
    "views in another order": (frames(lambda f: (f[1].update(view_id=2), f[2].update(view_id=1))), "view 1 at azimuth"),
    "no focal length": (frames(lambda f: (f[2].pop("fx"), f[2].pop("fy"))), "focal length"),
    "negative focal length": (frame(fx=-5), "focal length"),
    "focal length of words": (frame(fx="long"), "'long'"),
    "K of another size": (frame(w=512, h=512, cx=256, cy=256), "width 512, and its picture has 32"),
    "principal point outside": (frame(cx=256), "cx 256 for a picture of 32 pixels"),
    "numbered twice": (frame(view_id=1), "view_id"),
    "numbered in part": (frames(lambda f: f[2].pop("view_id")), "view_id"),
    "id that climbs": (content(id="../../x"), "no name for files"),
    "id too long": (content(id="x" * 200), "no name for files"),
    "recording that climbs": (content(recording="a/.."), "no name for files"),
    "file outside": (frame(file_path="../../secret.png"), "inside the sample's folder"),
    "absolute file": (frame(file_path="/etc/passwd"), "images/passwd does not exist"),
    "file_path of numbers": (frame(file_path=3), "file_path"),
    "picture cut in half": (cut(0.5), "cam_003.png is no whole picture"),
    "picture without its end": (cut(0.995), "cam_003.png is no whole picture"),
    "empty picture": (cut(0), "cam_003.png is no whole picture"),
    "flipped bit in a picture": (flip_in_picture, "cam_003.png is no whole picture"),
    "no picture inside": (lambda folder: picture(folder, 3).write_text("PNG"), "cam_003.png is no whole picture"),
    "huge picture": (big_picture, "9000x10"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_in_one_line(folder, case):
    change, reason = BAD[case]
    change(folder)
    with pytest.raises(InputError, match=reason) as told:
        read_sample(folder, size=SIZE, rig=MOUSE)
    assert "\n" not in str(told.value)
    assert "sample_000000" in str(told.value)


def test_composing_on_white_rounds_to_nearest():
    rgba = np.array([[[0, 100, 255, 0], [0, 100, 255, 255], [0, 100, 255, 128]]], np.uint8)
    assert on_white(rgba).tolist() == [[[255, 255, 255], [0, 100, 255], [127, 177, 255]]]


def test_resizing_leaves_no_dark_fringe():
    """Transparent pixels are black in straight alpha; a red disc over them must stay red to its edge."""
    y, x = np.mgrid[:128, :128]
    inside = np.hypot(x - 64, y - 64) < 40
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[inside] = [255, 0, 0, 255]
    framing = Framing(128, 128, 40)
    rgb = framing.picture(on_white(rgba)).astype(int)
    assert rgb[..., 0].min() >= 254
    assert np.abs(rgb[..., 1] - (255 - framing.picture(rgba[..., 3]).astype(int))).max() <= 2


@settings(max_examples=50, deadline=None)
@given(width=st.integers(20, 90), height=st.integers(20, 90), size=st.integers(8, 100), seed=st.integers(0, 99))
def test_intrinsics_follow_crop_and_resize(width, height, size, seed):
    """A blob drawn where K projects a point is found again where the framed K projects it."""
    rng = np.random.default_rng(seed)
    framing = Framing(width, height, size)
    left, top, right, bottom = framing.box
    side = right - left
    assert side == bottom - top == min(width, height)
    k = np.array([[80.0, 0, width / 2], [0, 70.0, height / 2], [0, 0, 1]])
    target = np.array([left, top]) + side * rng.uniform(0.35, 0.65, 2)
    ray = np.linalg.inv(k) @ [*target, 1]
    y, x = np.mgrid[:height, :width] + 0.5
    blob = 255 * np.exp(-((x - target[0]) ** 2 + (y - target[1]) ** 2) / (2 * (side / 12) ** 2))
    framed = framing.picture(blob.astype(np.uint8)).astype(float)
    assert framed.shape == (size, size)
    y, x = np.mgrid[:size, :size] + 0.5
    found = np.array([(framed * x).sum(), (framed * y).sum()]) / framed.sum()
    expected = framing.intrinsics(k) @ ray
    assert np.abs(found - expected[:2] / expected[2]).max() < 0.02 * size


def test_a_crop_without_resizing_keeps_every_pixel(tmp_path):
    sample = make_sample()
    write_sample(tmp_path / "s", sample)
    for view in range(6):
        wide = np.zeros((SIZE, SIZE + 7, 4), np.uint8)
        with Image.open(picture(tmp_path / "s", view)) as opened:
            wide[:, 3 : 3 + SIZE] = np.asarray(opened)
        Image.fromarray(wide).save(picture(tmp_path / "s", view))
    edit(tmp_path / "s", lambda c: [f.update(w=SIZE + 7, cx=f["cx"] + 3) for f in c["frames"]])
    back = read_sample(tmp_path / "s", size=SIZE, rig=MOUSE)
    assert np.array_equal(back.views, sample.views)
    assert np.array_equal(back.intrinsics, sample.intrinsics)


def test_views_too_dark_for_their_alpha_are_the_nearest_that_can_be(tmp_path):
    sample = make_sample()
    dark = dataclasses.replace(sample, views=np.zeros_like(sample.views), alpha=np.full_like(sample.alpha, 100))
    write_sample(tmp_path / "s", dark)
    assert (read_sample(tmp_path / "s").views == 155).all()
