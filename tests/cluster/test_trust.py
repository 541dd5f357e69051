"""What people write reaches the nodes word for word and executes nothing, and what they submitted is what runs."""

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.runfolder import PACKAGES, JobFolder, Run, source_root
from jobs.watch import task_events
from mvdiff import ResultStore, ShardDataset
from mvdiff.errors import InputError
from mvdiff.facelift import write_sample
from mvdiff.shard import ShardReader, ShardWriter
from tests.cluster.chaos_lab import SMALL, Lab
from tests.cluster.lab import LOW
from tests.mvdiff.test_pack import make_sample

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("trust")]

HOSTILE = [
    "a b", "it's", 'say "mouse"', "$(touch pwned)", "`touch pwned`", "; touch pwned #", "&& touch pwned", "$HOME",
    "-rf", "--array=9", "*", "\\", "~", "maus-ü-鼠", "#SBATCH --exclude=n1",
]  # fmt: skip
CPU = [*LOW, "cluster.gpus_per_node=0"]
SYNTH = ["synth", "samples=8", "size=32", "held_out=0", "shard_samples=2", *CPU]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory whose name holds everything that a path may."""
    folder = tmp_path / " ".join(name for name in HOSTILE if len(name) > 1)
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    return folder


def only_job(run: Run) -> JobFolder:
    (folder,) = run.jobs()
    return folder


def executed(tmp_path: Path) -> list[Path]:
    """What shows that a value was executed, wherever a shell may have been: where the command was given, in the folders
    of the job, at the root, at home."""
    places = [Path("/"), Path("/root"), Path("/tmp")]
    return [*tmp_path.rglob("pwned"), *(folder / "pwned" for folder in places if (folder / "pwned").exists())]


def test_hostile_names_reach_the_node_word_for_word(cluster, place, tmp_path, answer):
    """Of folders, of samples' folders, and of the run; in an array and in a job of one process."""
    for number, name in enumerate(HOSTILE):
        write_sample(place / "source" / name, make_sample(number))
    status, told = answer("pack", "run=--x", "source=source", "size=24", "held_out=0", *CPU, "--wait", "--json")
    assert status == 0, told
    packed = ShardDataset(place / "runs" / "--x" / "shards")
    assert len(packed) == len(HOSTILE)
    status, told = answer(*SYNTH, "run=-rf", "cluster.workers=2", "--wait", "--json")
    assert status == 0, told
    assert len(ShardDataset(place / "runs" / "-rf" / "shards")) == 8
    assert not executed(tmp_path)


def test_hostile_sample_ids_come_through_generation_and_export_as_they_are(cluster, place, tmp_path, answer):
    ids = [*HOSTILE, "two\nlines", "\x1b[31mred\ttab\r", "../../pwned", "/pwned", ".", "..", ".hidden",
           "mouse-" + "x" * 1018, "鼠" * 341, "ids.csv", "export.json", "slice-0000-000000.h5", "e\u0301",
           "\u00e9"]  # fmt: skip
    lab = Lab.make(place, samples=4)
    with ShardReader(next(lab.data.glob("*.h5"))) as reader:
        model = reader.sample(0)
    with ShardWriter(place / "source" / "a.h5", size=32, rig="mouse", codec="lz4", with_alpha=True) as writer:
        for number, name in enumerate(ids):
            writer.append(replace(model, sample_id=name, recording=name, views=np.roll(model.views, number, axis=2)))
        writer.publish()
    with pytest.raises(InputError, match="sample_id"):
        replace(model, sample_id="x" * 1025)
    words = lab.words("-g", *CPU, "cluster.workers=2", "--wait", "--json", data=place / "source")
    status, told = answer(*words)
    assert status == 0, told
    store = ResultStore(place / "runs" / "-g" / "results")
    assert store.ids() == ids
    assert len({store[name].tobytes() for name in ids}) == len(ids), "each was made from its own picture"

    status, told = answer("status", "runs/-g", "--json")
    (counts,) = told["generate"].values()
    assert status == 0 and counts["done"] == len(ids) and counts["quarantined"] == 0
    shown = answer("status", "runs/-g")[1]
    assert all(line.isprintable() for line in shown.split("\n"))
    assert answer("verify", "runs/-g")[0] == 0
    for form in ("npy", "png", "facelift"):
        assert answer("export", "runs/-g", f"out=made-{form}", f"format={form}")[0] == 0
        out = place / f"made-{form}"
        names = names_of(out)
        there = {path.name for path in out.iterdir()} - {"ids.csv", "export.json"}
        suffix = ".npy" if form == "npy" else ""
        assert there == {names.get(name, name + suffix) for name in ids} and len(there) == len(ids)
        if form == "npy":
            assert all(np.array_equal(np.load(out / names.get(name, f"{name}.npy")), store[name]) for name in ids)
    assert answer("evaluate", "run=-g", "data=source", "cluster=here")[0] == 0
    assert not executed(tmp_path)


def names_of(out: Path) -> dict[str, str]:
    """The files of an export by the sample ids that are no file names themselves."""
    with (out / "ids.csv").open(encoding="utf-8", newline="") as file:
        return {row["sample_id"]: row["file"] for row in csv.DictReader(file)}


def test_lines_of_setup_are_the_sites_own_shell_and_stay_as_written(cluster, place, tmp_path, answer):
    line = """export SAID='it'"'"'s "$HOME" $(echo no) `echo no` # no' && printf %s "$SAID" > said"""
    given = "cluster.setup=[" + "'" + line.replace("\\", "\\\\").replace("'", "\\'") + "']"
    status, told = answer(*SYNTH, "run=lab", given, "--wait")
    assert status == 0, told
    assert (place / "said").read_text() == """it's "$HOME" $(echo no) `echo no` # no"""
    assert not executed(tmp_path)


@pytest.mark.parametrize("key", ["account", "constraint", "exclude", "qos"])
def test_options_are_one_word_each_and_a_second_line_is_refused(cluster, place, tmp_path, answer, key):
    for value in ("a\n#SBATCH --nodes=4", "a\ntouch pwned"):
        status, told = answer(*SYNTH, "run=lab", f'cluster.{key}="{value}"')
        assert status == 2 and told.count("\n") == 1 and "control character" in told
    status, told = answer(*SYNTH, "run=lab", f"cluster.{key}='$(touch pwned) `touch pwned`; touch pwned'", "--wait")
    assert status == (2 if key in ("constraint", "exclude") else 0), "without accounting nobody knows the others"
    assert not executed(tmp_path)


def test_a_folder_that_a_batch_script_cannot_name_is_refused(cluster, tmp_path, monkeypatch, answer):
    for name in ("a:b", "a%j", "a\nb"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        status, told = answer(*SYNTH, "run=lab")
        assert status == 2 and told.count("\n") == 1, told
        assert not (folder / "runs").exists()


def test_what_is_queued_runs_as_it_was_whatever_happens_to_the_checkout(cluster, tmp_path, eventually):
    checkout = tmp_path / "checkout"
    for package in PACKAGES:
        shutil.copytree(source_root() / package, checkout / package)
    (tmp_path / "lab").mkdir()
    partition = ["scontrol", "update", "PartitionName=low"]
    subprocess.run([*partition, "State=DOWN"], check=True)
    try:
        subprocess.run(
            [sys.executable, "-P", "-m", "jobs.cli", *SYNTH, "run=lab"],
            cwd=tmp_path / "lab", env={**os.environ, "PYTHONPATH": str(checkout)}, check=True,
        )  # fmt: skip
        for path in checkout.rglob("*.py"):
            path.write_text("raise SystemExit('edited')\n")
        for path in checkout.rglob("*.yaml"):
            path.unlink()
    finally:
        subprocess.run([*partition, "State=UP"], check=True)
    run = Run(tmp_path / "lab" / "runs" / "lab")
    eventually(lambda: any(event["kind"] == "task finished" for event in task_events(only_job(run))), 60)
    assert len(ShardDataset(run.shards)) == 8


def test_data_that_only_this_machine_sees_are_refused_before_anything_is_queued(cluster, tmp_path, monkeypatch, answer):
    """/proc/self/cwd is another folder for a process on a node, as a disk of the login node's own would be."""
    monkeypatch.chdir(tmp_path)
    assert answer("synth", "run=lab", "samples=8", "size=32", "held_out=0", "cluster=here")[0] == 0
    words = ["train", "run=new", "data=/proc/self/cwd/runs/lab/shards/train", "train=demo",
             *SMALL, *CPU]  # fmt: skip
    status, told = answer(*words, "check_on_node=true")
    assert status == 2
    assert told == (
        "mvdiff: /proc/self/cwd/runs/lab/shards/train: not to be read on a node of this cluster: "
        "put it on a file system that all nodes share\n"
    )
    assert not (tmp_path / "runs" / "new").exists()
    status, told = answer(*words, "--dry-run")
    assert status == 0 and "which nodes may not see; check_on_node=true looks from one" in told


def test_retry_submits_the_workers_that_failed_and_no_others(cluster, tmp_path, monkeypatch, answer, eventually):
    """The second of four workers came to a node without a module that its batch script loads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").touch()
    setup = f"cluster.setup=['test ! -e {tmp_path}/broken || test \"$SLURM_ARRAY_TASK_ID\" != 1 || exit 3']"
    status, told = answer(*SYNTH, "run=lab", "cluster.workers=9", setup, "--wait")
    assert status == 1 and "4 of 9 workers, which is all that have work to do" in told
    run = Run(tmp_path / "runs" / "lab")
    first = only_job(run)
    assert len(first.submission().job_ids) == 4
    assert len({event["job_id"] for event in task_events(first)}) == 3
    before = {path: path.stat().st_mtime_ns for path in run.shards.rglob("*.h5")}
    assert len(before) == 3

    (tmp_path / "broken").unlink()
    status, told = answer("retry", "lab", "--dry-run")
    assert status == 0 and "#SBATCH --array=0-0" in told
    status, told = answer("retry", "lab", "cluster.time_min=7", "--wait", "--json")
    assert status == 0 and len(told["job_ids"]) == 1
    assert run.jobs()[-1].submission().workers == [1]
    assert len(ShardDataset(run.shards)) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert answer("retry", "lab")[1] == "nothing of lab failed\n"
