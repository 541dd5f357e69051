"""Folders of six pictures without a camera file, and masks beside pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.facelift import read_sample as read_with_cameras
from mvdiff.facelift import write_sample
from mvdiff.pack import PackSettings, pack, survey_for
from mvdiff.rig import rig
from mvdiff.shard import Sample, ShardDataset
from mvdiff.turntable import find_samples, read_sample

SIZE = 16
FACELIFT = rig("facelift")
SETTINGS = PackSettings(
    size=SIZE,
    rig="facelift",
    cameras="rig",
    like=None,
    codec="lz4",
    held_out=1,
    seed=0,
    shard_samples=4,
    recording_pattern=None,
    strict=True,
)


def photograph(folder: Path, names: list[str], ground: int = 255, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    """Pictures whose number stands in their middle as a grey level."""
    folder.mkdir(parents=True)
    for k, name in enumerate(names):
        picture = Image.new("RGB", size, (ground,) * 3)
        picture.paste((20 * k,) * 3, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
        picture.save(folder / name, quality=100)


def mask(path: Path, value: int = 255, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    path.parent.mkdir(exist_ok=True)
    picture = Image.new("L", size, 0)
    picture.paste(value, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    picture.save(path)


def read(source: Path, folder: Path) -> Sample:
    return read_sample(folder, source=source, common=source, size=SIZE, rig=FACELIFT, recording_pattern=None)


def test_pictures_count_in_the_order_of_their_numbers_and_have_the_rigs_cameras(tmp_path):
    photograph(tmp_path / "a", [f"view{k}.png" for k in (1, 2, 9, 10, 11, 100)])
    sample = read(tmp_path, tmp_path / "a")
    assert sample.views[:, SIZE // 2, SIZE // 2, 0].tolist() == [0, 20, 40, 60, 80, 100]
    assert np.array_equal(sample.w2c, FACELIFT.w2c())
    assert np.array_equal(sample.intrinsics, FACELIFT.intrinsics(SIZE))
    assert sample.azimuth.tolist() == list(FACELIFT.azimuth)
    assert sample.alpha is None


def test_sessions_name_ids_and_recordings(tmp_path):
    names = [f"{k}.jpg" for k in range(6)]
    photograph(tmp_path / "monday" / "0001", names)
    photograph(tmp_path / "tuesday" / "0001" / "images", names)
    photograph(tmp_path / "lone", names)
    report = pack(tmp_path, tmp_path / "out", SETTINGS)
    assert report is not None and report.train + report.heldout == 3
    data = ShardDataset(tmp_path / "out")
    assert {sample.sample_id: sample.recording for sample in data} == {
        "lone": "lone",
        "monday-0001": "monday",
        "tuesday-0001": "tuesday",
    }


def test_a_folder_around_all_samples_is_no_recording(tmp_path):
    for number in range(3):
        photograph(tmp_path / "export" / "samples" / f"{number}", [f"{k}.jpg" for k in range(6)])
    report = pack(tmp_path / "export", tmp_path / "out", SETTINGS)
    assert report is not None and (report.train, report.heldout) == (2, 1)
    data = ShardDataset(tmp_path / "out")
    assert all(sample.recording == sample.sample_id for sample in data)
    assert sorted(data.ids) == ["samples-0", "samples-1", "samples-2"]


def test_samples_may_be_listed(tmp_path):
    for place in ("monday/1", "monday/2", "tuesday/3", "friday/4"):
        photograph(tmp_path / place, [f"{k}.jpg" for k in range(6)])
    (tmp_path / "list.txt").write_text("# wanted\nmonday/1\nmonday/2\ntuesday/3\n")
    pack(tmp_path / "list.txt", tmp_path / "out", SETTINGS)
    recordings = {sample.sample_id: sample.recording for sample in ShardDataset(tmp_path / "out")}
    assert recordings == {"1": "monday", "2": "monday", "3": "tuesday"}


def test_masks_stand_for_alpha_and_are_no_samples(tmp_path):
    photograph(tmp_path / "a", [f"{k}.png" for k in range(6)], ground=90)
    for k in range(6):
        mask(tmp_path / "a" / "masks" / f"{k}.png")
    assert find_samples(tmp_path) == [tmp_path / "a"]
    sample = read(tmp_path, tmp_path / "a")
    assert sample.alpha is not None and sample.alpha[3, SIZE // 2, SIZE // 2] == 255 and sample.alpha[3, 0, 0] == 0
    assert (sample.views[:, 0, 0] == 255).all() and (sample.views[3, SIZE // 2, SIZE // 2] == 60).all()


def test_masks_stand_for_alpha_beside_a_camera_file_too(tmp_path):
    photograph(tmp_path / "a", [f"{k}.png" for k in range(6)])
    written = dataclasses.replace(read(tmp_path, tmp_path / "a"), views=np.full((6, SIZE, SIZE, 3), 50, np.uint8))
    write_sample(tmp_path / "b", written)
    for k in range(6):
        mask(tmp_path / "b" / "masks" / f"cam_{k:03d}.png")
    sample = read_with_cameras(tmp_path / "b")
    assert sample.alpha is not None and (sample.views[:, 0, 0] == 255).all()
    assert (sample.views[:, SIZE // 2, SIZE // 2] == 50).all()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "5.png").unlink(), "has 5 pictures"),
        (lambda folder: mask(folder / "masks" / "0.png", size=(SIZE, 8)), "is 16x8, its picture 16x16"),
        (lambda folder: mask(folder / "masks" / "0.png", value=1), "marks nothing"),
        (lambda folder: Image.new("RGB", (8, 8)).save(folder / "2.png"), "mixes pictures of 8x8 and 16x16"),
        (lambda folder: (folder / "2.png").write_bytes(b"x"), "no whole picture"),
        (lambda folder: folder.rename(folder.with_name("a b")), "no name for files"),
    ],
)
def test_what_cannot_be_packed_is_told(tmp_path, spoil, told):
    photograph(tmp_path / "source" / "a", [f"{k}.png" for k in range(6)])
    spoil(tmp_path / "source" / "a")
    with pytest.raises(InputError, match=told):
        survey_for(tmp_path / "source", SETTINGS)


@pytest.mark.parametrize("source", ["missing", "empty"])
def test_no_pictures_are_told(tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=source):
        survey_for(tmp_path / source, SETTINGS)


def test_a_ground_that_is_not_white_is_remarked_on_and_masks_silence_that(tmp_path):
    for name in ("a", "b"):
        photograph(tmp_path / "source" / name, [f"{k}.png" for k in range(6)], ground=90 if name == "b" else 255)
    report = pack(tmp_path / "source", tmp_path / "out", SETTINGS)
    assert report is not None
    (remark,) = report.remarks
    assert remark.startswith("1 sample has neither alpha nor a white ground") and "b's border 0% is white" in remark
    for name in ("a", "b"):
        for k in range(6):
            mask(tmp_path / "source" / name / "masks" / f"{k}.png")
    again = pack(tmp_path / "source", tmp_path / "with masks", SETTINGS)
    assert again is not None and again.remarks == [] and again.with_alpha


def test_a_mask_that_comes_later_is_noticed(tmp_path):
    photograph(tmp_path / "source" / "a", [f"{k}.png" for k in range(6)])
    photograph(tmp_path / "source" / "b", [f"{k}.png" for k in range(6)])
    pack(tmp_path / "source", tmp_path / "out", SETTINGS)
    mask(tmp_path / "source" / "a" / "masks" / "0.png", value=200)
    with pytest.raises(InputError, match="has another sample a than its source now"):
        pack(tmp_path / "source", tmp_path / "out", SETTINGS)


def test_only_two_layouts_are_known():
    with pytest.raises(InputError, match="cameras is colmap: choose file, rig, single"):
        dataclasses.replace(SETTINGS, cameras="colmap").check()
