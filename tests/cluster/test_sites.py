"""`mvdiff cluster new` on a real SLURM: what it finds out, and which requests it has SLURM try."""

import io
import os
import pty
import shutil
import subprocess
import sys

import pytest
import yaml

from jobs.groups import user_folder
from jobs.runfolder import source_root

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("plain")]

PICKY = """\
#!/bin/sh
for script; do :; done
for option in gpus-per-node mem-per-gpu; do
    grep -q -e "--$option=" "$script" && { echo "sbatch: error: this site wants no --$option" >&2; exit 1; }
done
exec SBATCH "$@"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return user_folder() / "cluster"


def read(file):
    content = yaml.safe_load(file.read_text())
    assert content.pop("defaults") == ["slurm", "_self_"]
    return content


def test_a_site_is_described_by_asking_the_cluster(cluster, mine, answer):
    status, told = answer("cluster", "new", "lab", "--json")
    assert status == 0 and told["file"] == str(mine / "lab.yaml")
    asked = {"partition": "low", "gpus_per_node": 1, "cpus_per_gpu": 2, "memory_per_gpu_gb": 60, "time_min": 1440}
    assert read(mine / "lab.yaml") == told["values"] == asked
    status, script = answer("synth", "run=x", "samples=8", "cluster=lab", "--dry-run")
    assert status == 0
    for option in ("--gpus-per-node=1", "--cpus-per-task=2", "--mem-per-gpu=60G", "--partition=low"):
        assert f"#SBATCH {option}" in script
    status, script = answer("synth", "run=x", "samples=8", "cluster=lab", "cluster.gpus_per_node=4", "--dry-run")
    assert "#SBATCH --ntasks-per-node=1" in script and "#SBATCH --gpus-per-node=1" in script
    status, told = answer("cluster", "new", "lab")
    assert status == 2 and "is there already: add --force" in told


def test_the_account_and_the_partition_s_time_limit_are_taken_over(accounting_cluster, mine, answer):
    status, told = answer("cluster", "new", "lab", "partition=short", "gpus_per_node=2", "--json")
    assert status == 0
    assert (told["values"]["account"], told["values"]["time_min"]) == ("lab", 5)


def test_what_slurm_refuses_is_told_and_nothing_written(cluster, mine, answer):
    status, told = answer("cluster", "new", "lab", "partition=short", "constraint=nix", "--yes")
    assert status == 2 and "SLURM would not take a job of this kind" in told and "feature" in told
    status, told = answer("cluster", "new", "lab", "partition=nix", "--yes")
    assert status == 2 and "choose partition= from low, high, short" in told
    assert not mine.exists()


def test_given_answers_that_cannot_be_are_told_all_at_once_with_what_is_possible(accounting_cluster, mine, answer):
    given = ["partition=short", "account=theirs", "gpus_per_node=9", "cpus_per_task=500", "time_min=60"]
    status, told = answer("cluster", "new", "lab", *given, "--yes")
    assert status == 2
    assert told.splitlines() == [
        "mvdiff: account 'theirs' is none of yours: choose account= from lab, root",
        "mvdiff: gpus_per_node=9 cannot be: no node of partition short has more than 2 GPUs: give 0 to 2",
        "mvdiff: cpus_per_task=500 cannot be: a node of partition short has 8 CPUs at most: give 1 to 8",
        "mvdiff: time_min=60 cannot be: partition short ends jobs after 5 min: give 1 to 5",
    ]
    status, told = answer("cluster", "new", "lab", "partition=short,nix", "--yes")
    assert status == 2 and "'nix' does not exist" in told and "choose partition= from low, high, short" in told
    assert not mine.exists()


def test_a_job_beyond_its_partition_is_told_what_that_has(cluster, answer):
    asked = ["partition=short", "time_min=60", "gpus_per_node=9", "tasks_per_node=1", "cpus_per_task=500"]
    status, told = answer("train", "run=x", "data=nix", "cluster=slurm", *(f"cluster.{word}" for word in asked))
    assert status == 2
    lines = told.splitlines()
    assert lines[:2] == [
        "mvdiff: cluster.time_min=60 cannot be: partition short ends jobs after 5 min: give 1 to 5",
        "mvdiff: cluster.gpus_per_node=9 cannot be: no node of partition short has more than 4 GPUs: give 0 to 4",
    ]
    assert "500 CPUs of a node" in lines[2] and lines[2].endswith(
        "lower cluster.cpus_per_task or cluster.tasks_per_node"
    )
    assert "nix" in lines[3]


def test_what_is_suggested_is_taken_aloud_and_a_file_for_a_folder_names_the_one_it_hides(
    cluster, mine, answer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    status, told = answer("cluster", "new", "lab", "partition=short")
    assert status == 0 and "takes what is suggested" in told and "no longer" not in told
    status, told = answer("cluster", "new", "lab", "partition=short", "--here", "--yes")
    assert status == 0 and "takes what is suggested" not in told
    assert "in this folder cluster=lab means that file now, and no longer" in told
    assert (tmp_path / "configs/cluster/lab.yaml").exists()


def talk(*lines: str, partition: str = "short") -> str:
    """What a person sees who answers the questions so, at a terminal."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "jobs.cli", "cluster", "new", "lab", f"partition={partition}"],
        stdin=end, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(source_root()), "COLUMNS": "120"},
    )  # fmt: skip
    os.close(end)
    os.write(terminal, "".join(f"{line}\n" for line in lines).encode())
    shown = process.communicate(timeout=60)[0]
    os.close(terminal)
    assert process.returncode == 0, shown
    return shown


def test_a_site_without_gpus_gives_a_process_the_cpus_that_it_has_a_use_for(limited_cluster, mine):
    shown = talk("lab", "0", "9", "", "3", "", "tmp/x", "$TMPDIR/${USER}", "/local/$USER", "")
    assert "GPUs of a node" not in shown and shown.count("CPUs of every process, of 8 (2): ") == 3
    for told in (
        "cpus_per_task=0 cannot be: a node of partition short has 8 CPUs at most: give 1 to 8",
        "cpus_per_task=9 cannot be: ",
        "cluster.scratch='tmp/x' depends on where a job starts: begin it with / or $",
        "cluster.scratch: ",
    ):
        assert shown.count(told) == 1, (told, shown)
    values = read(mine / "lab.yaml")
    assert (values["gpus_per_node"], values["cpus_per_task"], values["scratch"]) == (0, 2, "/local/$USER")


def test_a_time_limit_beyond_all_reason_is_asked_for_again(cluster, mine):
    shown = talk("0", "2", "99999999999", "60", "", "", "", partition="low")
    assert shown.count("cluster.time_min=99999999999 cannot be: give less than 1000000000") == 1
    assert read(mine / "lab.yaml")["time_min"] == 60


def test_a_question_is_asked_again_with_what_is_possible(accounting_cluster, mine):
    shown = talk("theirs", "lab", "9", "-1", "2", "60", "0", "3", "", "", "")
    for told in (
        "Please select one of the available options",
        "gpus_per_node=9 cannot be: no node of partition short has more than 2 GPUs: give 0 to 2",
        "gpus_per_node=-1 cannot be: ",
        "time_min=60 cannot be: partition short ends jobs after 5 min: give 1 to 5",
        "time_min=0 cannot be: ",
    ):
        assert shown.count(told) == 1, (told, shown)
    assert shown.count("account [lab/root] (lab): ") == 2
    values = read(mine / "lab.yaml")
    assert (values["account"], values["gpus_per_node"], values["time_min"]) == ("lab", 2, 3)


def test_a_job_for_drained_nodes_is_queued_and_waits_for_them(cluster, answer, tmp_path, monkeypatch, eventually):
    monkeypatch.chdir(tmp_path)
    words = ["synth", "run=x", "samples=2", "size=32", "held_out=0", "cluster=slurm", "cluster.cpus_per_task=1"]
    names = [node.name for node in cluster.nodes.states()]
    for name in names:
        cluster.drain_node(name)
    try:
        status, told = answer(*words)
        assert status == 0 and "some of the partition are down or drained" in told
        status, told = answer(*words[:1], "run=y", *words[2:], "cluster.cpus_per_task=500")
        assert status == 2, "no node will ever have so many"
    finally:
        for name in names:
            cluster.recover_node(name)
    eventually(lambda: answer("status", "x", "--json")[1]["states"][0]["state"] == "done", 60)


def test_the_way_of_asking_is_one_that_the_site_takes(cluster, mine, answer, tmp_path, monkeypatch):
    picky = tmp_path / "bin/sbatch"
    picky.parent.mkdir()
    picky.write_text(PICKY.replace("SBATCH", shutil.which("sbatch")))
    picky.chmod(0o755)
    monkeypatch.setenv("PATH", f"{picky.parent}:{os.environ['PATH']}")
    status, told = answer("cluster", "new", "lab", "--json")
    assert status == 0
    assert told["values"]["gpu_request"] == "gres" and "memory_per_gpu_gb" not in told["values"]
