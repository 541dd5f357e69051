import fcntl
import os
import signal

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


@pytest.mark.parametrize(("form", "fatal"), [("npy", 7), ("png", 14)])
def test_a_killed_export_goes_on_and_shows_no_half_sample(store, tmp_path, form, fatal):
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        try:
            real, calls = os.fsync, 0

            def fsync(handle):
                nonlocal calls
                calls += 1
                if calls == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(handle)

            os.fsync = fsync
            export(store, out, form)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert list(out.glob(".*.part"))
    done = export(store, out, form)
    assert 0 < done.kept < 10 and done.written + done.kept == 10
    assert not list(out.glob(".*"))
    names = {path.name for path in out.iterdir()} - {"export.json"}
    assert names == {f"{sample_id}.npy" if form == "npy" else sample_id for sample_id in store.ids()}


def test_ids_that_may_not_become_file_names_are_refused_and_the_rest_goes_on(bench, tmp_path, make_sample):
    path = tmp_path / "results" / "slice.h5"
    with ShardWriter(path, size=16, rig="mouse", codec="raw", with_alpha=False) as writer:
        for sample_id in (".hidden", "export.json", "fine"):
            writer.append(make_sample(sample_id))
        writer.publish()
    done = export(ResultStore(path), tmp_path / "out", "png")
    assert done.written == 1
    assert done.refused.keys() == {".hidden", "export.json"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "fine"]


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
