"""Single pictures: framed as a checkpoint has been trained to see, generated from, and never learned from."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.pack import PackSettings, is_packed, pack, survey_for
from mvdiff.placement import Placement, bounding_box
from mvdiff.portrait import Studio, find_pictures, read_portrait
from mvdiff.rig import rig
from mvdiff.shard import ShardIndex, ShardReader

SIZE = 64
MOUSE = rig("mouse")
STUDIO = Studio(MOUSE, SIZE, Placement((0.4, 0.5, 0.6), (0.4, 0.5, 0.6), (0.4, 0.5, 0.6)))
SETTINGS = PackSettings(
    size=SIZE,
    rig="mouse",
    cameras="single",
    like="checkpoint",
    codec="lz4",
    held_out=0.2,
    seed=0,
    shard_samples=2,
    recording_pattern=None,
    strict=True,
)


def photograph(path, masked=True):
    """A dark square at the right edge of a wide grey picture, and its mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, mask = Image.new("RGB", (200, 100), "grey"), Image.new("L", (200, 100))
    for image, value in ((picture, (20, 20, 20)), (mask, 255)):
        image.paste(value, (160, 30, 190, 60))
    picture.save(path)
    if masked:
        (path.parent / "masks").mkdir(exist_ok=True)
        mask.save(path.parent / "masks" / f"{path.stem}.png")


@pytest.fixture
def studio(monkeypatch):
    """Of a checkpoint that need not be trained for this."""
    monkeypatch.setattr(Studio, "of", classmethod(lambda cls, checkpoint: STUDIO))


def test_a_masked_picture_shows_its_subject_as_training_did(tmp_path):
    photograph(tmp_path / "monday" / "m 1.png")
    sample = read_portrait(tmp_path / "monday" / "m 1.png", source=tmp_path, studio=STUDIO, recording_pattern=None)
    left, top, right, bottom = bounding_box(sample.views[0].min(-1) < 128)
    assert abs((right - left) / SIZE - 0.5) < 0.05 and abs((left + right) / 2 / SIZE - 0.5) < 0.05
    assert abs((top + bottom) / 2 / SIZE - 0.5) < 0.05
    assert (sample.views[0, 0] == 255).all() and (sample.views[1:] == 255).all()
    assert sample.sample_id == "monday-m 1" and np.array_equal(sample.w2c, MOUSE.w2c())


def test_every_picture_is_a_sample_and_no_mask_is(tmp_path, studio):
    for name in ("a.png", "monday/b.png", "monday/c.png"):
        photograph(tmp_path / "source" / name)
    report = pack(tmp_path / "source", tmp_path / "out", SETTINGS)
    assert report is not None and (report.train, report.heldout, report.single) == (0, 0, 3)
    index = ShardIndex.scan(tmp_path / "out")
    assert sorted(index.ids) == ["a", "monday-b", "monday-c"] and index.single
    assert {shard.parent.name for shard in index.shards} == {"single"} and report.remarks == []
    with pytest.raises(InputError, match="holds single pictures"):
        index.refuse_single()
    assert is_packed(tmp_path / "source", tmp_path / "out", SETTINGS)
    photograph(tmp_path / "source" / "d.png")
    assert not is_packed(tmp_path / "source", tmp_path / "out", SETTINGS)


def test_a_mask_counts_as_a_part_of_its_picture(tmp_path, studio):
    photograph(tmp_path / "source" / "a.png")
    pack(tmp_path / "source", tmp_path / "out", SETTINGS)
    (tmp_path / "source" / "masks" / "a.png").unlink()
    with pytest.raises(InputError, match="has another sample a"):
        pack(tmp_path / "source", tmp_path / "out", SETTINGS)


def test_a_ground_that_is_not_white_is_remarked_on(tmp_path, studio):
    photograph(tmp_path / "source" / "a.png", masked=False)
    report = pack(tmp_path / "source", tmp_path / "out", SETTINGS)
    assert report is not None and "neither alpha nor a white ground" in report.remarks[0]


def test_single_pictures_may_be_listed(tmp_path):
    photograph(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    assert find_pictures(tmp_path / "list.txt") == [tmp_path / "a.png"] == find_pictures(tmp_path / "a.png")


def test_shards_of_single_pictures_and_of_six_views_are_kept_apart(tmp_path, studio):
    photograph(tmp_path / "source" / "a.png")
    pack(tmp_path / "source", tmp_path / "out", SETTINGS)
    for k in range(6):
        photograph(tmp_path / "six" / "s" / f"{k}.png", masked=False)
    six = dataclasses.replace(SETTINGS, cameras="rig", like=None, held_out=0)
    pack(tmp_path / "six", tmp_path / "out" / "others", six)
    with ShardReader(tmp_path / "out" / "others" / "train" / "shard-00000.h5") as reader:
        assert not reader.single
    with pytest.raises(InputError, match="single pictures for rig mouse at 64 pixels"):
        ShardIndex.scan(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"like": None}, "like=null do not go together"),
        ({"cameras": "rig"}, "cameras=rig and like=checkpoint do not go together"),
        ({"size": 32}, "asked for are 32 by mouse"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, studio, change, told):
    photograph(tmp_path / "a.png")
    with pytest.raises(InputError, match=told):
        survey_for(tmp_path, dataclasses.replace(SETTINGS, **change))


@pytest.mark.parametrize("source", ["missing", "empty"])
def test_no_pictures_are_told(tmp_path, studio, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=source):
        survey_for(tmp_path / source, SETTINGS)


def test_an_empty_mask_and_a_torn_picture_are_told_by_name(tmp_path, studio):
    photograph(tmp_path / "source" / "a.png")
    Image.new("L", (200, 100)).save(tmp_path / "source" / "masks" / "a.png")
    photograph(tmp_path / "source" / "b.png")
    (tmp_path / "source" / "b.png").write_bytes(b"no picture")
    photograph(tmp_path / "source" / "c.png")
    report = pack(tmp_path / "source", tmp_path / "out", dataclasses.replace(SETTINGS, strict=False))
    assert report is not None and report.single == 1
    refused = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert [
        ("masks/a.png marks nothing" in one["reason"], "b.png is no whole" in one["reason"]) for one in refused
    ] == [
        (True, False),
        (False, True),
    ]


def test_a_folder_that_is_no_checkpoint_is_told(tmp_path):
    photograph(tmp_path / "a.png")
    with pytest.raises(InputError, match="no model in"):
        survey_for(tmp_path, dataclasses.replace(SETTINGS, like=str(tmp_path)))
