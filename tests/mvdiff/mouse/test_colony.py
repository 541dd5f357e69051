"""Data sets of mice: split by animal, resumable, shared between workers, and refused where they do not fit."""

import dataclasses
from pathlib import Path

import pytest

from mvdiff.errors import InputError
from mvdiff.mouse.colony import Colony, plan, remaining, synthesise
from mvdiff.mouse.heading import Heading
from mvdiff.mouse.render import FRAMES, render_mouse
from mvdiff.rig import rig
from mvdiff.shard import ShardIndex, ShardReader, verify_shard

COLONY = Colony(
    samples=22, seed=5, heading="front-or-side", size=24, rig="mouse", codec="raw", held_out=0.25, shard_samples=6
)


def stop_after(calls: int):
    left = iter(range(calls))
    return lambda: next(left, None) is None


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def rows(out: Path) -> dict[str, int]:
    index = ShardIndex.scan(out)
    return {index.ids[i]: index.checksum(i) for i in range(len(index))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    counts = synthesise(out, COLONY)
    assert (counts.drawn, counts.kept, counts.left) == (22, 0, 0)
    return out


def test_every_sample_is_there_once_and_as_rendered(whole: Path):
    train, heldout = ShardIndex.scan(whole / "train"), ShardIndex.scan(whole / "heldout")
    assert sorted(train.ids + heldout.ids) == [f"mouse-5-{i:06d}" for i in range(22)]
    assert not any(verify_shard(path) for path in whole.rglob("*.h5"))
    assert train.rig == "mouse"
    path, row = heldout.locate(0)
    stored = ShardReader(path).sample(row)
    number = int(stored.sample_id.rsplit("-", 1)[1])
    drawn = render_mouse(5, number, rig=rig("mouse"), size=24, heading=Heading.parse("front-or-side"))
    assert stored.checksum() == drawn.checksum()


def test_no_animal_is_in_both_sets(whole: Path):
    train, heldout = ShardIndex.scan(whole / "train"), ShardIndex.scan(whole / "heldout")
    assert not set(train.recordings) & set(heldout.recordings)
    assert 0 < len(heldout) <= 0.25 * 22 + FRAMES


def test_a_second_run_draws_nothing_and_changes_nothing(whole: Path):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.h5")}
    counts = synthesise(whole, COLONY)
    assert (counts.drawn, counts.kept, counts.left) == (0, 22, 0)
    assert remaining(whole, COLONY) == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.h5")} == before


@pytest.mark.parametrize("calls", [0, 3, 7, 15])
def test_a_stopped_run_goes_on_where_it_was(whole: Path, tmp_path: Path, calls: int):
    first = synthesise(tmp_path, COLONY, should_stop=stop_after(calls))
    assert first.left > 0 and 0 <= first.drawn <= calls
    assert remaining(tmp_path, COLONY) == first.left
    second = synthesise(tmp_path, COLONY)
    assert first.drawn + second.drawn == 22 and second.left == 0
    assert rows(tmp_path) == rows(whole)
    assert files(tmp_path).keys() == files(whole).keys()


def test_workers_share_the_shards_and_make_the_same_data(whole: Path, tmp_path: Path):
    counts = [synthesise(tmp_path, COLONY, worker=w, workers=3) for w in (2, 0, 1)]
    assert sum(c.drawn for c in counts) == 22
    assert all(c.drawn > 0 and c.kept == 0 for c in counts)
    assert rows(tmp_path) == rows(whole)


def test_a_lost_shard_is_drawn_again(whole: Path, tmp_path: Path):
    synthesise(tmp_path, COLONY)
    lost = tmp_path / plan(COLONY)[1].path
    lost.unlink()
    assert synthesise(tmp_path, COLONY).drawn == len(plan(COLONY)[1].indices)
    assert rows(tmp_path) == rows(whole)


@pytest.mark.parametrize(
    "change", [{"seed": 6}, {"heading": "any"}, {"size": 32}, {"codec": "gzip"}, {"samples": 12}, {"held_out": 0.5}]
)
def test_other_settings_are_refused_where_a_data_set_lies(whole: Path, change: dict):
    before = files(whole)
    for act in (synthesise, remaining):
        with pytest.raises(InputError, match="new folder"):
            act(whole, dataclasses.replace(COLONY, **change))
    assert files(whole) == before


@pytest.mark.parametrize(
    "change, word",
    [
        ({"samples": 0}, "samples"), ({"seed": -1}, "seed"), ({"size": 8}, "size"), ({"size": 100_000}, "size"),
        ({"rig": "moose"}, "rig"), ({"codec": "zip"}, "codec"), ({"heading": "up"}, "heading"),
        ({"held_out": -0.1}, "held_out"), ({"held_out": 22}, "held_out"), ({"shard_samples": 0}, "shard_samples"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_told_before_anything_is_written(tmp_path: Path, change: dict, word: str):
    with pytest.raises(InputError, match=word):
        synthesise(tmp_path / "new", dataclasses.replace(COLONY, **change))
    assert not (tmp_path / "new").exists()


def test_mice_are_seen_by_any_six_cameras(tmp_path: Path):
    cameras = {"name": "tower", "azimuth": [5, 65, 125, 185, 245, 305], "elevation": [30] * 6, "fov": 40, "distance": 2}
    colony = dataclasses.replace(COLONY, samples=3, held_out=0, rig=cameras)
    assert synthesise(tmp_path, colony).drawn == 3
    index = ShardIndex.scan(tmp_path)
    assert rig(index.rig) == rig(cameras)
    path, row = index.locate(0)
    stored = ShardReader(path).sample(row)
    assert stored.elevation.tolist() == [30] * 6 and stored.azimuth.tolist() == cameras["azimuth"]
    assert synthesise(tmp_path, dataclasses.replace(colony, rig=index.rig)).kept == 3
    with pytest.raises(InputError, match="another setting of rig"):
        remaining(tmp_path, dataclasses.replace(colony, rig={**cameras, "fov": 41}))


def test_nothing_held_out_makes_no_such_folder(tmp_path: Path):
    synthesise(tmp_path, dataclasses.replace(COLONY, samples=3, held_out=0))
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
