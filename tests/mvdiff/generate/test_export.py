import csv
import fcntl
import json
import os
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.facelift import read_sample
from mvdiff.generate import ResultStore
from mvdiff.generate.export import export
from mvdiff.shard import ShardWriter


@pytest.fixture
def store(bench):
    plan = bench.plan()
    bench.work(plan)
    return ResultStore(plan.folder)


def test_npy_is_one_array_a_sample(store, tmp_path):
    done = export(store, tmp_path / "out", "npy")
    assert (done.written, done.kept, done.refused) == (10, 0, {})
    for sample_id, views in store:
        assert np.array_equal(np.load(tmp_path / "out" / f"{sample_id}.npy", allow_pickle=False), views)


def test_png_is_six_pictures_and_a_sheet(store, tmp_path):
    export(store, tmp_path / "out", "png", ids=["mouse-003"])
    folder = tmp_path / "out" / "mouse-003"
    assert sorted(path.name for path in folder.iterdir()) == ["sheet.png", *(f"view_{k}.png" for k in range(6))]
    for k, view in enumerate(store["mouse-003"]):
        assert np.array_equal(np.asarray(Image.open(folder / f"view_{k}.png")), view)
        assert np.array_equal(np.asarray(Image.open(folder / "sheet.png"))[:, 16 * k : 16 * (k + 1)], view)


def test_facelift_comes_back_as_it_went(store, tmp_path):
    export(store, tmp_path / "out", "facelift", ids=["mouse-003"])
    given, back = store.sample("mouse-003"), read_sample(tmp_path / "out" / "mouse-003")
    assert np.array_equal(back.views, given.views)
    assert np.allclose(back.w2c, given.w2c, atol=1e-5)


def test_the_same_call_again_writes_nothing(store, tmp_path):
    export(store, tmp_path / "out", "npy", ids=["mouse-001", "mouse-002"])
    before = {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    done = export(store, tmp_path / "out", "npy", ids=["mouse-001", "mouse-002", "mouse-003"])
    assert (done.written, done.kept) == (1, 2)
    assert before.items() <= {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()}.items()


def shown(out):
    """Names of the samples in the export ``out``."""
    return {path.name for path in out.iterdir() if not path.name.startswith(".")} - {"export.json", "ids.csv"}


@pytest.mark.parametrize("form", ["npy", "png", "facelift"])
def test_a_killed_export_goes_on_and_shows_no_half_sample(store, tmp_path, form):
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        try:
            real, parts = os.fsync, []

            def fsync(handle):
                """The first sample gets through; the kill finds the others written and not yet named."""
                place = re.search(r"/out/(\.\w+\.part)", os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115
                if place:
                    parts.append(place[1])
                    while place[1] != parts[0]:
                        if shown(out):
                            os.kill(os.getpid(), signal.SIGKILL)
                        time.sleep(0.001)
                real(handle)

            os.fsync = fsync
            export(store, out, form)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert list(out.glob(".*.part"))
    there = shown(out)
    done = export(store, out, form)
    assert done.kept == len(there) and done.written + done.kept == 10
    assert 0 < done.kept < 10
    assert not list(out.glob(".*"))
    assert shown(out) == {f"{sample_id}.npy" if form == "npy" else sample_id for sample_id in store.ids()}
    for sample_id, views in store:
        path = out / sample_id
        if form == "npy":
            assert np.array_equal(np.load(out / f"{sample_id}.npy", allow_pickle=False), views)
        elif form == "png":
            assert np.array_equal(np.asarray(Image.open(path / "sheet.png")), np.concatenate(list(views), 1))
        else:
            assert np.array_equal(read_sample(path).views, views)


HOSTILE = [
    ".hidden", "export.json", "ids.csv", "fine", "../climbs", "/etc/passwd", "..", "a b", "two\nlines", "a\r",
    'quo"te,s', "쥐" * 300, "쥐 1", "%2Ehidden", "\u2028", "x" * 1024,
]  # fmt: skip


@pytest.mark.parametrize("form", ["npy", "png", "facelift"])
def test_every_id_is_exported_under_a_name_of_its_own(tmp_path, make_sample, form):
    path = tmp_path / "results" / "slice.h5"
    with ShardWriter(path, size=16, rig="mouse", codec="raw", with_alpha=False) as writer:
        for sample_id in HOSTILE:
            writer.append(make_sample(sample_id))
        writer.publish()
    store, out = ResultStore(path), tmp_path / "out"
    some = HOSTILE[:9]
    assert export(store, out, form, ids=some).written == len(some)
    assert export(store, out, form).kept == len(some)
    with (out / "ids.csv").open(encoding="utf-8", newline="") as file:
        noted = {row["sample_id"]: row["file"] for row in csv.DictReader(file)}
    assert noted.keys() == set(HOSTILE) - {"fine"}
    names = noted | {"fine": "fine.npy" if form == "npy" else "fine"}
    assert sorted(path.name for path in out.iterdir()) == sorted([*names.values(), "export.json", "ids.csv"])
    assert {path.name for path in tmp_path.iterdir()} == {"results", "out"}
    for sample_id, name in names.items():
        there = out / name
        assert there.parent == out and not name.startswith(".")
        if form == "facelift":
            assert json.loads((there / "opencv_cameras.json").read_text(encoding="utf-8"))["id"] == sample_id
        elif form == "npy":
            assert np.array_equal(np.load(there, allow_pickle=False), store[sample_id])
        else:
            assert np.array_equal(np.asarray(Image.open(there / "view_5.png")), store[sample_id][5])


def test_a_file_that_is_damaged_as_a_whole_costs_its_samples(store, tmp_path):
    path = store.path / "slice-0000-000000.h5"
    path.write_bytes(path.read_bytes()[:-1])
    done = export(ResultStore(store.path), tmp_path / "out", "npy")
    assert (done.written, list(done.refused)) == (6, [f"mouse-{k:03d}" for k in range(4)])
    assert "cut off" in done.refused["mouse-000"]


def test_a_disk_that_takes_nothing_more_is_told_in_one_line(store, tmp_path, monkeypatch):
    monkeypatch.setattr("mvdiff.generate.export.sync_file", _full)
    with pytest.raises(InputError, match="cannot be written"):
        export(store, tmp_path / "out", "png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export.json"]


def _full(path):
    raise OSError(28, "No space left on device")


def test_a_damaged_sample_costs_one_sample(store, tmp_path):
    path = store.path / "slice-0000-000000.h5"
    import h5py

    with h5py.File(path, "r+") as file:
        file["azimuth"][2] = file["azimuth"][2] + 1
    done = export(store, tmp_path / "out", "npy")
    assert (done.written, list(done.refused)) == (9, ["mouse-002"])


def test_a_folder_that_holds_something_else_is_left_alone(store, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").write_text("x")
    with pytest.raises(InputError, match="is no export"):
        export(store, tmp_path / "thesis", "npy")
    export(store, tmp_path / "out", "npy", ids=["mouse-001"])
    with pytest.raises(InputError, match="as npy"):
        export(store, tmp_path / "out", "png")


def test_two_exports_never_share_a_folder(store, tmp_path):
    export(store, tmp_path / "out", "npy", ids=["mouse-001"])
    with (tmp_path / "out" / "export.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another export"):
            export(store, tmp_path / "out", "npy")


def test_unknown_forms_and_ids_are_named(store, tmp_path):
    with pytest.raises(InputError, match=r"'gif'.*npy, png, facelift"):
        export(store, tmp_path / "out", "gif")
    with pytest.raises(InputError, match="no sample 'rat'"):
        export(store, tmp_path / "out", "npy", ids=["rat"])
    assert not (tmp_path / "out").exists()
