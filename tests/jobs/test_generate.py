"""`mvdiff generate` as a person asks for it: selections, several input views, shards that cannot be read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import generate as module
from jobs.cli import main
from jobs.compose import composed, settings
from jobs.job import writes
from jobs.room import refuse_too_large
from jobs.runfolder import Run
from mvdiff import ResultStore
from mvdiff.errors import InputError
from mvdiff.generate.asked import Asked
from mvdiff.shard import ShardIndex
from slurm.cluster import Cluster

SMALL = [
    "model.size=64", "model.new.patch=8", "model.new.widths=[16,32]", "model.new.latent_channels=8",
    "model.new.head_width=16", "model.new.context_width=16", "model.new.condition_grid=4",
]  # fmt: skip
WORDS = ["generate", "run=lab", "data=data", "checkpoint=newest", "generate.steps=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["synth", "run=lab", "samples=12", "size=64", "held_out=0", "shard_samples=4", "--wait"]) == 0
        (folder / "runs" / "lab" / "shards" / "train").rename(folder / "data")
        assert main(["train", "run=lab", "data=data", "train.steps=1", *SMALL, "--wait"]) == 0
    return folder


@pytest.fixture
def lab(trained, monkeypatch):
    """A run with a checkpoint, below the working directory, and twelve samples in data."""
    monkeypatch.chdir(trained)
    return Run(trained / "runs" / "lab")


@pytest.fixture
def generate(lab, capsys, request):
    """Run `mvdiff generate --wait --json` with more words; its answer."""
    seed = f"generate.seed={abs(hash(request.node.name)) % 2**31}"

    def run(*words):
        capsys.readouterr()
        assert main([*WORDS, seed, *words, "--wait", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def refused(capsys, *words):
    capsys.readouterr()
    assert main([*WORDS, *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    return told


def test_options_choose_samples_and_one_call_adds_to_another(lab, generate):
    ids = ShardIndex.scan(lab.path.parent.parent / "data").ids
    (lab.path / "ids.txt").write_text(f'{ids[5]}\n"{ids[1]}"\n')
    assert generate("--ids", f"@{lab.path / 'ids.txt'}")["samples"] == 2
    assert generate(f"ids={ids[5]},{ids[6]}", "limit=2")["samples"] == 3
    answer = generate("--shards", "*00002*", "--limit=3")
    assert answer["samples"] == 6
    assert sorted(ResultStore(answer["results"]).ids()) == sorted([ids[1], *ids[5:7], *ids[8:11]])


def test_every_reference_view_has_a_set_of_its_own_that_stays(generate):
    first = generate("--limit", "2", "--reference-view", "1", "generate.seed=1")
    both = generate("--limit", "2", "--reference-view", "1,4", "generate.seed=1")
    assert both["samples"] == 4 and "results" not in both
    assert both["results_of_view_1"] == first["results"]
    stores = [ResultStore(both[f"results_of_view_{view}"]) for view in (1, 4)]
    assert [int(store.attributes()["reference_view"]) for store in stores] == [1, 4]
    assert stores[0].ids() == stores[1].ids()

    words = [*WORDS, "--limit", "2", "generate.reference_view=4,1", "generate.seed=1"]
    check = f"""
import sys, time
from jobs.cli import main
assert main({[*words, "--json"]!r}) == 0
assert "torch" not in sys.modules
assert time.process_time() < 2
"""
    told = subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.PIPE).stdout
    assert "job_ids" not in json.loads(told), "what is done is told at once, and not submitted"


def test_damage_costs_what_it_hit_until_it_is_mended(lab, generate, capsys):
    cut, flipped = (lab.path.parent.parent / "data" / f"mice-{k:05d}.h5" for k in (1, 2))
    good = {path: path.read_bytes() for path in (cut, flipped)}
    cut.write_bytes(good[cut][:3000])
    middle = len(good[flipped]) // 2
    flipped.write_bytes(good[flipped][:middle] + bytes([good[flipped][middle] ^ 16]) + good[flipped][middle + 1 :])
    try:
        answer = generate()
        assert (answer["samples"], answer["quarantined"], answer["unreadable_shards"]) == (7, 1, 1)
        remembered = Asked.load(ResultStore(answer["results"]).path)
        assert (remembered.checkpoint, remembered.data) == (answer["checkpoint"], [str(cut.parent)])
        assert list(remembered.unreadable) == [str(cut)]
        assert "job_ids" not in generate(), "what is still damaged is not tried again"
        assert main([*WORDS, "--dry-run"]) == 0
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and f"left out: {cut} is cut off" in told
        assert "is cut off" in refused(capsys, "--shards", "mice-00001")
    finally:
        for path, content in good.items():
            path.write_bytes(content)
    answer = generate()
    assert (answer["samples"], answer["quarantined"], answer["unreadable_shards"]) == (12, 0, 0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ids", "rat,vole"], "'rat' and 1 more"),
        (["--ids", "두 마리/..\nx"], r"'두 마리/..\nx'"),
        (["--ids", "@/does/not/exist"], "ids=@/does/not/exist cannot be read"),
        (["--ids", "${run}"], "ids=@FILE"),
        (["--ids", ""], "ids= is empty"),
        (["--shards", "nope*"], "'nope*'"),
        (["--limit", "many"], "limit=many"),
        (["--limit", "0"], "limit=0"),
        (["--reference-view", "0,7"], "generate.reference_view is 0,7"),
        (["--limit"], "--limit"),
    ],
)
def test_a_selection_that_chooses_nothing_is_told_in_one_line(lab, capsys, words, says):
    before = set(lab.results.glob("*"))
    assert says in refused(capsys, *words)
    assert set(lab.results.glob("*")) == before


def test_what_is_bad_or_missing_is_repaired_and_nothing_else(generate, lab, capsys):
    results = Path(generate("limit=8", "generate.slice=2", "generate.batch=2")["results"])
    files = sorted(results.glob("slice-*.h5"))
    before = {path: path.read_bytes() for path in files}
    assert len(files) == 4
    harmed = bytearray(before[files[0]])
    harmed[-3000] ^= 1
    files[0].write_bytes(harmed)
    files[2].unlink()
    inodes = {path: path.stat().st_ino for path in (files[1], files[3])}
    capsys.readouterr()
    assert main(["verify", str(results)]) == 1
    told = capsys.readouterr()
    assert str(files[0]) in told.out and "missing" in told.out and "--repair" in told.err
    jobs = len(lab.jobs())
    assert main(["verify", str(results), "--repair"]) == 0
    assert {path: path.read_bytes() for path in sorted(results.glob("slice-*.h5"))} == before
    assert {path: path.stat().st_ino for path in inodes} == inodes, "what was good is left alone"
    assert len(lab.jobs()) == jobs + 1
    assert len(ResultStore(results)) == 8, "no more than was planned"
    capsys.readouterr()
    assert main(["verify", str(results)]) == 0
    assert main(["verify", str(results), "--repair"]) == 0
    assert "nothing to repair" in capsys.readouterr().err
    assert len(lab.jobs()) == jobs + 1


@pytest.mark.parametrize("words", [["nowhere", "--repair"], ["--repair"], ["data", "--repair"]])
def test_a_repair_of_what_is_no_result_is_refused(lab, capsys, words):
    assert main(["verify", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_status_tells_of_every_result_set(generate, lab, capsys):
    generate("limit=4")
    capsys.readouterr()
    assert main(["status", "lab"]) == 0
    told = capsys.readouterr().out
    assert "4 of 4 samples done (100%), 0 running, 0 quarantined, 0 missing" in told
    assert "sheet.png" in told
    assert main(["status", "lab", "--json"]) == 0
    sets = json.loads(capsys.readouterr().out)["generate"]
    assert all(one["done"] == one["samples"] for one in sets.values())


@pytest.mark.parametrize(("gib", "refused"), [(0.001, True), (8, False)])
def test_a_generation_that_the_site_s_gpus_cannot_hold_is_refused(lab, gib, refused):
    config = composed("generate", [*WORDS[1:], "cluster=slurm", f"cluster.card={gib}"])
    module.check(config, lab)
    cluster = settings(Cluster, config.cluster, "cluster")
    if refused:
        with pytest.raises(InputError, match=r"generate takes some .* GiB of a GPU.*generate\.batch less than"):
            refuse_too_large("generate", config, cluster)
    else:
        refuse_too_large("generate", config, cluster)
    assert writes(module, config, lab).size == int(0.28 * 12 * 6 * 3 * 64**2)
