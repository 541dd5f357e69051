"""The command line as a person meets it: help, mistakes, exit status."""

import json
import subprocess
import sys
import time

import pytest

from jobs import JOBS
from jobs.cli import main
from jobs.compose import composed, known_keys
from mvdiff.errors import InputError


def fails(capsys, *words):
    """The one line on standard error of a command that is refused with status 2."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_help_names_every_job_and_its_start_imports_no_torch():
    check = "import sys; from jobs.cli import main; main(['--help']); assert 'torch' not in sys.modules, 'torch'"
    begin = time.process_time()
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert time.process_time() - begin < 0.5
    for name in JOBS:
        assert f"\n  {name} " in shown.stdout


@pytest.mark.parametrize("name", JOBS)
def test_help_of_a_job_is_a_first_screen_with_every_key_of_its_file(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 60
    assert max(map(len, shown.splitlines())) <= 120
    for key in known_keys(name):
        if "." not in key:
            assert f"  {key}=" in shown, key
    for part in ("usage:", "options", "examples", "exit status"):
        assert part in shown


@pytest.mark.parametrize(
    ("name", "needed"), [("train", ["run", "data"]), ("export", ["path", "out"]), ("synth", ["run"])]
)
def test_help_of_a_job_begins_with_the_keys_that_it_cannot_do_without(name, needed, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out.partition("\nkeys\n")[2].splitlines()
    assert [line.split("=")[0].strip() for line in shown if "required: " in line] == needed
    assert [line.split("=")[0].strip() for line in shown[: len(needed)]] == needed


@pytest.mark.parametrize("name", JOBS)
def test_composing_a_job_imports_no_torch(name):
    check = (
        "import sys; from jobs.job import job; from jobs.compose import known_keys;"
        f"known_keys({name!r}); job({name!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_unknown_command(capsys):
    assert "choose one of synth, pack, train" in fails(capsys, "trian")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "run=x", "data=y", "train.stepz=3"], ["unknown key 'train.stepz'", "train.steps"]),
        (["train", "run=x", "data=y", "cluster.node=3"], ["cluster.node'", "cluster.nodes"]),
        (["train", "run=x", "data=y", "steps=3"], ["'steps'", "train.steps"]),
        (["train", "run=x", "data=y", "modle=tiny"], ["'modle'", "model"]),
        (["train", "run=x", "data=y", "model=huge"], ["model=huge does not exist", "tiny"]),
        (["train", "run=x", "data=y", "cluster=slrum"], ["cluster=slrum does not exist", "slurm"]),
        (["train", "data=y"], ["run is not set", "run="]),
        (["train", "run=x"], ["data is not set"]),
        (["synth", "run=x", "samples=${nope}"], ["nope"]),
        (["synth", "run=x", "+foo=1"], ["+foo=1"]),
        (["synth", "run=x", "seed=99999999999999999999"], ["seed"]),
        (["synth", "run=x", "held_out=nan"], ["held_out"]),
        (["train", "run=x", "data=y", "cluster.tasks_per_node=-1"], ["cluster.tasks_per_node=-1"]),
        (["train", "run=x", "data=y", "cluster=here", "cluster.tasks_per_node=2"], ["cluster=local"]),
        (["train", "run=x", "data=y", "--fast"], ["--fast"]),
        (["train", "run=x", "data=y", "oops"], ["'oops'", "key=value"]),
        (["train", "run=../x", "data=y"], ["run='../x'", "letters"]),
        (["train", "run=...", "data=y"], ["is not a name"]),
        (["train", "run=x", "data=y", "cluster.nodes=two"], ["cluster.nodes", "two"]),
        (["train", "run=x", "data=y", "cluster.nodes=2"], ["cluster.nodes=2", "cluster=slurm"]),
        (["train", "run=x", "data=/does/not/exist"], ["/does/not/exist"]),
        (["verify", "/does/not/exist"], ["/does/not/exist does not exist"]),
        (["train", "run=x", "data=${HOME}"], ["${HOME}"]),
        (["testbed", "fly"], ["fly", "mvdiff testbed --help"]),
        (["demo", "now"], ["now"]),
        (["doctor", "cluster=slurm", "parts=gpus,clock"], ["brackets and quotes", '"parts=[gpus,clock]"']),
        (["doctor", "cluster=slurm", "nodes=${nope}"], ["mvdiff doctor cluster=SITE --help"]),
        (["retry"], ["RUN is not given"]),
        (["cluster", "new"], ["SITE is not given"]),
        (["cluster", "new", "lab", "prtition=low", "--yes"], ["'prtition=low'", "did you mean partition"]),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_the_cure(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = fails(capsys, *words)
    for part in says:
        assert part in told, told
    assert list(tmp_path.iterdir()) == [], "nothing is written for a request that is refused"


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["train.batch=-1", "train.steps=-5"], ["train.batch=-1", "train.steps=-5"]),
        (["train.batch=0"], ["train.batch=0"]),
        (["train.batch=abc", "train.steps=xyz", "train.seed=-1"], ["train.batch: ", "train.steps: "]),
        (
            ["train.batch=-1", "train.schedule=no", "train.augment.flip=3", "train.validation.every=-2"],
            ["train.batch=-1", "train.schedule=no", "train.augment.flip=3", "train.validation.every=-2"],
        ),
        (["model.steps=0", "model.camera=odd"], ["model.steps=0", "model.camera=odd"]),
        (["model.new.patch=0", "model.new.timesteps=0"], ["model.new.patch=0", "model.new.timesteps=0"]),
        (
            ["cluster=slurm", "cluster.nodes=0", "cluster.time_min=-1", "cluster.gpu_type='a b'",
             "cluster.scratch=here"],
            ["cluster.nodes=0", "cluster.time_min=-1", "cluster.gpu_type='a b'", "cluster.scratch='here'"],
        ),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_a_group_is_told_a_line_each(words, keys, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["synth", "run=lab", "samples=2", "size=32", "held_out=0", "cluster=here"]) == 0
    capsys.readouterr()
    assert main(["train", "run=lab", "data=runs/lab/shards/train", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sorted(next(key for key in keys if line.startswith(f"mvdiff: {key}")) for line in lines) == sorted(keys)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (
            ["train", "run=x", "data=y", "train.batch=0", "model.steps=0", "cluster.time_min=-3"],
            ["train.batch=0", "model.steps=0", "cluster.time_min=-3"],
        ),
        (["train", "cluster.workers=0"], ["data is not set", "run is not set", "cluster.workers=0"]),
        (
            ["generate", "run=../x", "data=y", "generate.batch=0", "cluster.workers=0"],
            ["generate.batch is 0", "cluster.workers=0", "run='../x'"],
        ),
        (
            ["train", "run=x", "data=y", "train.batch=0", "cluster.workers=0", "then", "generate", "run=x",
             "generate.batch=0", "then", "evaluate", "data=z", "cluster.nodes=0"],
            ["train.batch=0", "cluster.workers=0", "data is not set", "generate.batch is 0", "run is not set",
             "cluster.nodes=0"],
        ),
        (
            ["doctor", "train.batch=0", "generate.batch=0", "cluster.nodes=0"],
            ["train.batch=0", "generate.batch is 0", "cluster.nodes=0"],
        ),
        (
            ["train", "run=x", "data=y", "train.batch=0", "cluster=slurm", "cluster.cpus_per_gpu=-1"],
            ["train.batch=0", "cluster.cpus_per_gpu=-1"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_several_groups_is_told_together(words, keys, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    lines = told.splitlines()
    for key in keys:
        assert sum(line.startswith(f"mvdiff: {key}") for line in lines) == 1, f"{key} in {told}"
    assert list(tmp_path.iterdir()) == [], "nothing is written for a request that is refused"


def test_json_keeps_standard_output_to_one_object(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", str(tmp_path), "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["job"] == "verify"


def test_a_reader_that_leaves_does_not_change_the_exit_status(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no shard")
    command = [sys.executable, "-m", "jobs.cli", "verify", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdout = None
        told = process.communicate()[1]
    assert process.returncode == 1, told


def test_json_is_printed_for_a_refusal_too(capsys):
    assert main(["verify", "/does/not/exist", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"] in captured.err


@pytest.mark.parametrize("path", ["a b", "it's", "x=y", "[1,2", "ü$HOME", "a,b", "{", "'", "\\", "null"])
def test_paths_reach_the_configuration_as_they_are(path):
    assert composed("train", ["run=x", f"data=/{path}"]).data.path == f"/{path}"


def test_a_site_of_ones_own_lies_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "configs" / "cluster").mkdir(parents=True)
    (tmp_path / "configs" / "cluster" / "mysite.yaml").write_text(
        "defaults:\n  - slurm\n  - _self_\npartition: gpu-long\n"
    )
    monkeypatch.chdir(tmp_path)
    config = composed("train", ["run=x", "data=y", "cluster=mysite"])
    assert (config.cluster.kind, config.cluster.partition) == ("slurm", "gpu-long")


def test_data_may_name_a_file_of_its_group():
    with pytest.raises(InputError, match="data is not set"):
        composed("train", ["run=x", "data=default"])


def test_an_experiment_sets_everything_and_gives_way_to_what_is_said():
    whole = composed("train", ["experiment=mouse_6x", "cluster=slurm", "cluster.nodes=2", "cluster.gpus_per_node=8"])
    assert (whole.run, whole.model.name, whole.train.batch, whole.train.epochs) == (
        "mouse_6x",
        "zero123plus-v1.2",
        64,
        4,
    )
    assert whole.train.steps is None and whole.train.readers == whole.cluster.cpus_per_task
    said = composed("train", ["experiment=mouse_6x", "run=mine", "data=elsewhere", "train.batch=32"])
    assert (said.run, said.data.path, said.train.batch, said.train.epochs) == ("mine", "elsewhere", 32, 4)
