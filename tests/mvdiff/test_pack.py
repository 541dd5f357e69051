"""Packing: whole or not at all, resumable, told about every sample it refuses."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.facelift import CAMERAS, write_sample
from mvdiff.pack import PackSettings, is_packed, pack, survey_for
from mvdiff.rig import Rig, rig
from mvdiff.shard import Sample, ShardDataset, ShardIndex, ShardReader, verify

SIZE = 24
MOUSE = rig("mouse")
SETTINGS = PackSettings(
    size=SIZE,
    rig="mouse",
    cameras="file",
    like=None,
    codec="lz4",
    held_out=3,
    seed=0,
    shard_samples=4,
    recording_pattern=None,
    strict=True,
)


TOWER = {
    "name": "tower",
    "azimuth": [10, 50, 110, 190, 230, 350],
    "elevation": [30, 30, -5, 0, 12.5, 60],
    "fov": 40,
    "distance": 3,
}


def make_sample(i: int, with_alpha: bool = True, cameras: Rig = MOUSE) -> Sample:
    rng = np.random.default_rng(i)
    return Sample(
        f"mouse-{i:03d}",
        f"cage-{i // 2}" if i < 4 else f"cage-{i}",
        np.full((6, SIZE, SIZE, 3), rng.integers(0, 256), np.uint8),
        np.tile(np.uint8([254, 255]), (6, SIZE, SIZE // 2)) if with_alpha else None,
        cameras.w2c(),
        cameras.intrinsics(SIZE),
        np.array(cameras.azimuth, np.float32),
        np.array(cameras.elevation, np.float32),
    )


@pytest.fixture
def source(tmp_path) -> Path:
    for i in range(11):
        write_sample(tmp_path / "source" / f"sample_{i:06d}", make_sample(i))
    return tmp_path / "source"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def truncate_picture(source: Path, i: int) -> None:
    path = source / f"sample_{i:06d}" / "images" / "cam_002.png"
    path.write_bytes(path.read_bytes()[:-20])


def without_view(source: Path, i: int) -> None:
    path = source / f"sample_{i:06d}" / CAMERAS
    content = json.loads(path.read_text())
    content["frames"].pop()
    path.write_text(json.dumps(content))


def test_every_sample_lands_in_one_set_with_its_recording(source, tmp_path):
    report = pack(source, tmp_path / "out", SETTINGS)
    assert report.done_before is False and report.with_alpha and report.refused == []
    train, heldout = ShardDataset(tmp_path / "out" / "train"), ShardDataset(tmp_path / "out" / "heldout")
    assert (len(train), len(heldout)) == (report.train, report.heldout) == (8, 3)
    assert sorted(train.ids + heldout.ids) == [f"mouse-{i:03d}" for i in range(11)]
    assert not set(train.recordings) & set(heldout.recordings)
    assert verify(tmp_path / "out").bad == []
    assert [str(p.relative_to(tmp_path / "out")) for p in report.shards] == [
        "train/shard-00000.h5", "train/shard-00001.h5", "heldout/shard-00000.h5",
    ]  # fmt: skip
    for sample in (*train, *heldout):
        given = make_sample(int(sample.sample_id[-3:]))
        assert np.array_equal(sample.alpha, given.alpha)
        assert np.abs(sample.views.astype(int) - given.views).max() <= 1


def test_a_second_run_does_nothing(source, tmp_path):
    first = pack(source, tmp_path / "out", SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert is_packed(source, tmp_path / "out", SETTINGS)
    assert pack(source, tmp_path / "out", SETTINGS) == dataclasses.replace(first, done_before=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_copy_of_the_source_with_other_times_is_the_same_source(source, tmp_path):
    pack(source, tmp_path / "out", SETTINGS)
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.h5")}
    pack(tmp_path / "copy", tmp_path / "out", SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.h5")} == before


@pytest.mark.parametrize(
    "change", [{"size": 16}, {"codec": "raw"}, {"held_out": 0.5}, {"seed": 1}, {"shard_samples": 5}]
)
def test_other_settings_at_an_old_output_are_refused(source, tmp_path, change):
    pack(source, tmp_path / "out", SETTINGS)
    before = tree(tmp_path / "out")
    ((key, value),) = change.items()
    with pytest.raises(InputError, match=f"{key} {getattr(SETTINGS, key)!r}, not {value!r}"):
        pack(source, tmp_path / "out", dataclasses.replace(SETTINGS, **change))
    assert tree(tmp_path / "out") == before


def test_another_source_at_an_old_output_is_refused_with_the_difference(source, tmp_path):
    pack(source, tmp_path / "out", SETTINGS)
    before = tree(tmp_path / "out")
    shutil.rmtree(source / "sample_000006")
    with pytest.raises(InputError, match="mouse-006"):
        pack(source, tmp_path / "out", SETTINGS)
    write_sample(source / "sample_000006", dataclasses.replace(make_sample(7), sample_id="mouse-006"))
    with pytest.raises(InputError, match="mouse-006"):
        pack(source, tmp_path / "out", SETTINGS)
    assert tree(tmp_path / "out") == before


def test_shards_of_something_else_are_not_mixed_in(source, tmp_path):
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "mice.h5").write_bytes(b"other")
    with pytest.raises(InputError, match=r"mice\.h5 was not made from this source"):
        pack(source, tmp_path / "out", SETTINGS)


@pytest.mark.parametrize("spoil", [truncate_picture, without_view])
def test_strict_refuses_the_whole_before_anything_is_written(source, tmp_path, spoil):
    for i in (4, 7, 9):
        spoil(source, i)
    with pytest.raises(InputError, match=r"sample_000004.*2 more samples are bad") as told:
        pack(source, tmp_path / "out", SETTINGS)
    assert "strict=false" in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_lenient_leaves_bad_samples_out_and_lists_them(source, tmp_path):
    truncate_picture(source, 4)
    without_view(source, 7)
    write_sample(source / "sample_000011", make_sample(0))
    report = pack(source, tmp_path / "out", dataclasses.replace(SETTINGS, strict=False))
    assert report.train + report.heldout == 9
    assert [Path(name).name for name, _ in report.refused] == ["sample_000004", "sample_000007", "sample_000011"]
    listed = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert [(entry["sample"], entry["reason"]) for entry in listed] == report.refused
    assert "no whole picture" in listed[0]["reason"]
    assert "5 views" in listed[1]["reason"]
    assert "same id mouse-000" in listed[2]["reason"]
    assert any("3 samples were refused" in remark for remark in report.remarks)


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_good_is_refused_either_way(source, tmp_path, strict):
    for i in range(11):
        truncate_picture(source, i)
    with pytest.raises(InputError, match="10 more samples are bad"):
        pack(source, tmp_path / "out", dataclasses.replace(SETTINGS, strict=strict))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rig": "moose"}, "unknown rig 'moose'"),
        ({"codec": "zip"}, "unknown codec 'zip'"),
        ({"size": 0}, "size is 0"),
        ({"shard_samples": 0}, "shard_samples is 0"),
        ({"held_out": 11}, "held_out"),
        ({"recording_pattern": "("}, "no regular expression"),
        ({"recording_pattern": "rat"}, "no recording"),
    ],
)
def test_settings_that_make_no_sense_are_refused(source, tmp_path, change, reason):
    with pytest.raises(InputError, match=reason):
        pack(source, tmp_path / "out", dataclasses.replace(SETTINGS, **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source_name", ["missing", "empty"])
def test_no_source_and_an_empty_one_are_refused(tmp_path, source_name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=source_name):
        pack(tmp_path / source_name, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_alpha_is_packed_only_if_all_have_it(source, tmp_path):
    shutil.rmtree(source / "sample_000005")
    write_sample(source / "sample_000005", make_sample(5, with_alpha=False))
    report = pack(source, tmp_path / "out", SETTINGS)
    assert not report.with_alpha
    without, ground = report.remarks
    assert without == "no alpha with 1 of 11 samples, so it is packed for none"
    assert ground.startswith("1 sample has neither alpha nor a white ground") and "mouse-005" in ground
    assert all(sample.alpha is None for sample in ShardDataset(tmp_path / "out"))


@pytest.mark.parametrize("keys", [("fx", "fy"), ("fx",), ("fy",)])
def test_a_field_of_view_off_the_rig_is_remarked_on(source, tmp_path, keys):
    path = source / "sample_000005" / CAMERAS
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        frame.update(dict.fromkeys(keys, SIZE / 2))
    path.write_text(json.dumps(content))
    (remark,) = pack(source, tmp_path / "out", SETTINGS).remarks
    assert "mouse-005 by 60.0" in remark


def tower_source(folder: Path) -> Path:
    for i in range(4):
        write_sample(folder / f"sample_{i:06d}", make_sample(i, cameras=rig(TOWER)))
    return folder


def test_samples_of_any_six_cameras_are_packed_with_their_rig(tmp_path):
    source, tower = tower_source(tmp_path / "source"), rig(TOWER)
    settings = dataclasses.replace(SETTINGS, rig=TOWER, held_out=0)
    report = pack(source, tmp_path / "out", settings)
    assert (report.train, report.remarks) == (4, [])
    with ShardReader(tmp_path / "out" / "train" / "shard-00000.h5") as reader:
        assert rig(reader.rig) == tower and reader.rig == tower.text
    packed = ShardDataset(tmp_path / "out" / "train")
    assert rig(packed.rig) == tower
    assert packed[0].azimuth == pytest.approx(tower.azimuth) and packed[0].elevation == pytest.approx(tower.elevation)
    again = dataclasses.replace(settings, rig=tower.text)
    assert again == settings and is_packed(source, tmp_path / "out", again)


def test_samples_of_other_cameras_than_the_rig_s_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="the rig 'tower': view 0 at azimuth 0 elevation 0 instead of 10 30"):
        pack(source, tmp_path / "out", dataclasses.replace(SETTINGS, rig=TOWER))
    with pytest.raises(InputError, match="the rig 'mouse': view 0 at azimuth 10 elevation 30 instead of 0 0"):
        pack(tower_source(tmp_path / "towers"), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_another_rig_at_an_old_output_is_refused_with_its_numbers(source, tmp_path):
    pack(source, tmp_path / "out", SETTINGS)
    with pytest.raises(InputError, match=r"packed with rig mouse, not tower \(azimuth 10 50 110 190 230 350, elev"):
        pack(source, tmp_path / "out", dataclasses.replace(SETTINGS, rig=TOWER))


def test_shards_of_two_rigs_are_refused_with_both(source, tmp_path):
    pack(source, tmp_path / "out" / "a", SETTINGS)
    pack(tower_source(tmp_path / "towers"), tmp_path / "out" / "b", dataclasses.replace(SETTINGS, rig=TOWER))
    with pytest.raises(InputError, match=r"tower \(azimuth 10 .* FOV 40, distance 3\) at 24 .* mouse at 24") as told:
        ShardIndex.scan(tmp_path / "out")
    assert "{" not in str(told.value)


def test_a_survey_writes_nothing(source, tmp_path):
    before = tree(tmp_path)
    found = survey_for(source, SETTINGS)
    assert len(found.good) == 11 and found.with_alpha
    assert tree(tmp_path) == before


def test_stopped_again_and_again_it_ends_with_the_same_bytes(source, tmp_path):
    pack(source, tmp_path / "whole", SETTINGS)
    asked = 0

    def third_time() -> bool:
        nonlocal asked
        asked += 1
        return asked % 3 == 0

    runs = 0
    while pack(source, tmp_path / "out", SETTINGS, third_time) is None:
        runs += 1
        assert not is_packed(source, tmp_path / "out", SETTINGS)
    assert runs >= 3
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_killed_at_any_write_it_ends_with_the_same_bytes(source, tmp_path):
    pack(source, tmp_path / "whole", SETTINGS)
    boundary = 0
    while True:
        child = os.fork()
        if not child:
            _pack_until(boundary, source, tmp_path / "out")
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        boundary += 12
    assert boundary > 60
    visible = {name: content for name, content in tree(tmp_path / "out").items() if not Path(name).name.startswith(".")}
    assert visible == tree(tmp_path / "whole")


def _pack_until(boundary: int, source: Path, out: Path) -> None:
    count = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > boundary:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("pwrite", "fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        done = pack(source, out, SETTINGS)
    except BaseException:
        os._exit(1)
    os._exit(0 if done else 2)


FULL = """
import resource, signal, sys
from pathlib import Path
from mvdiff.errors import InputError
from mvdiff.pack import PackSettings, pack
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    pack(Path(sys.argv[1]), Path(sys.argv[2]), PackSettings(24, "mouse", "file", None, "raw", 3, 0, 8, None, True))
except InputError as error:
    print(f"mvdiff: {error}", file=sys.stderr)
    sys.exit(2)
"""


@pytest.mark.parametrize("limit", [300, 40_000, 110_000])
def test_a_full_disk_costs_one_line(source, tmp_path, limit):
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path / "out"), str(limit)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2, result.stderr
    *progress, message = result.stderr.splitlines()
    assert message.startswith("mvdiff: ") and "File too large" in message
    assert all("samples" in line for line in progress)
    assert not list((tmp_path / "out").rglob("*.h5"))
    report = pack(source, tmp_path / "out", PackSettings(24, "mouse", "file", None, "raw", 3, 0, 8, None, True))
    assert (report.train, report.heldout) == (8, 3)


def test_a_split_that_cannot_be_is_told_before_anything_is_packed(source):
    with pytest.raises(InputError, match="held_out asks for 11 of 11 samples"):
        survey_for(source, dataclasses.replace(SETTINGS, held_out=11))
