"""The testbed does to jobs what clusters do: it places, warns, preempts, requeues, and loses nodes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from slurm.errors import RequestError
from slurm.testbed import Testbed, processes
from slurm.testbed.nodes import of_testbed
from slurm.testbed.plan import PLAN_FILE, Plan
from slurm.testbed.processes import marked

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("testbed")]

ROOT = Path(__file__).parents[2]

# Writes a line for its start and one for every signal. On the warning, rank 0 asks for a requeue and all leave.
HEEDING_TASK = """
import os, signal, subprocess, sys, time
def say(*words):
    with open(sys.argv[1], "a") as file:
        print(os.environ["SLURM_PROCID"], os.environ["SLURMD_NODENAME"],
              os.environ.get("SLURM_RESTART_COUNT", "0"), *words, file=file, flush=True)
def warned(number, frame):
    say(signal.Signals(number).name)
    if os.environ["SLURM_PROCID"] == "0":
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
    sys.exit(0)
signal.signal(signal.SIGUSR2, warned)
say("start")
if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    time.sleep(600)
"""


def submit(bed: Testbed, *options: str) -> str:
    answer = bed.client.run("sbatch", "--parsable", "--chdir=/", *options)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def field(bed: Testbed, job: str, name: str) -> str:
    answer = bed.client.run("scontrol", "show", "job", "--oneliner", job)
    return next((word.partition("=")[2] for word in answer.stdout.split() if word.startswith(f"{name}=")), "")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_step_spans_nodes(cluster):
    answer = cluster.client.run("srun", "--nodes=2", "--ntasks-per-node=2", "sh", "-c", "echo $SLURMD_NODENAME")
    assert answer.returncode == 0, answer.stderr
    assert sorted(Counter(answer.stdout.split()).values()) == [2, 2]


def test_an_array_runs_each_index_once_and_ends_below_its_limit(cluster, tmp_path, eventually):
    job = submit(
        cluster, "--array=0-7%4", f"--output={tmp_path}/%a", "--open-mode=append", "--wrap=echo $SLURM_ARRAY_TASK_ID"
    )
    eventually(lambda: not cluster.client.run("squeue", "--noheader", "--jobs", job).stdout.strip(), 60)
    assert {path.name: path.read_text().strip() for path in tmp_path.iterdir()} == {str(k): str(k) for k in range(8)}
    refused = cluster.client.run("sbatch", "--array=1001", "--output=/dev/null", "--wrap=true")
    assert refused.returncode != 0
    assert "Invalid job array specification" in refused.stderr


def test_every_job_sees_gpus_of_its_own(cluster):
    all_of_a_node = cluster.client.run("srun", "--gpus-per-node=4", "printenv", "CUDA_VISIBLE_DEVICES")
    assert all_of_a_node.stdout.strip() == "0,1,2,3"
    script = "srun --exact --ntasks=1 --gpus-per-node=2 printenv CUDA_VISIBLE_DEVICES & " * 2 + "wait"
    halves = cluster.client.run("salloc", "--ntasks=2", "--nodes=1", "--gpus-per-node=4", "sh", "-c", script)
    assert sorted(halves.stdout.split()) == ["0,1", "2,3"]
    refused = cluster.client.run("sbatch", "--gpus-per-node=5", "--output=/dev/null", "--wrap=true")
    assert refused.returncode != 0


def test_partitions_refuse_what_they_do_not_allow(cluster):
    for request in (["--partition=short", "--time=10:00"], ["--partition=nowhere"]):
        answer = cluster.client.run("sbatch", *request, "--output=/dev/null", "--wrap=true")
        assert answer.returncode != 0, request


def test_a_higher_job_warns_every_task_of_a_lower_one_which_comes_back(cluster, tmp_path, eventually):
    (tmp_path / "task.py").write_text(HEEDING_TASK)
    log = tmp_path / "log"
    low = submit(
        cluster,
        *("--partition=low", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=4", "--signal=USR2@90"),
        *("--time=60", "--requeue", f"--output={tmp_path}/out"),
        f"--wrap=srun {sys.executable} {tmp_path}/task.py {log}",
    )
    eventually(lambda: len(lines(log)) == 4, 60)
    submit(
        cluster, "--partition=high", "--nodes=4", "--gpus-per-node=4", "--time=1", "--output=/dev/null", "--wrap=true"
    )
    eventually(lambda: sum(line.endswith("SIGUSR2") for line in lines(log)) == 4, 10)
    asked = time.monotonic()
    eventually(lambda: sum(line.endswith("1 start") for line in lines(log)) == 4, 60)
    assert time.monotonic() - asked < 45, "cred_expire is not in force"
    eventually(lambda: field(cluster, low, "JobState") == "COMPLETED", 30)
    assert field(cluster, low, "Restarts") == "1"


def test_a_job_that_heeds_no_warning_is_killed_and_requeued(accounting_cluster, eventually):
    low = submit(accounting_cluster, "--partition=low", "--nodes=2", "--output=/dev/null", "--wrap=sleep 600")
    eventually(lambda: field(accounting_cluster, low, "JobState") == "RUNNING", 30)
    high = submit(
        accounting_cluster,
        *("--partition=high", "--nodes=2", "--ntasks-per-node=8", "--time=1", "--output=/dev/null", "--wrap=true"),
    )
    eventually(lambda: field(accounting_cluster, high, "JobState") == "COMPLETED", 90)
    eventually(
        lambda: (
            field(accounting_cluster, low, "JobState") == "RUNNING"
            and field(accounting_cluster, low, "Restarts") == "1"
        ),
        60,
    )
    ask = ("sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={low}", "--format=State")
    eventually(lambda: "PREEMPTED" in accounting_cluster.client.run(*ask).stdout.split(), 30)


def test_a_job_of_a_crashed_node_is_back_on_another(cluster, tmp_path, eventually):
    log = tmp_path / "log"
    job = submit(
        cluster,
        *("--nodes=1", "--requeue", "--output=/dev/null", "--export=NONE"),
        # The first task leaves its step's session, as a stray helper process would.
        f"--wrap=echo $SLURMD_NODENAME >> {log}; setsid sleep 601 & sleep 600",
    )
    (first,) = eventually(lambda: lines(log), 30)
    cluster.crash_node(first)
    assert not any("sleep 601" in process.command for process in processes.processes())
    eventually(lambda: len(lines(log)) == 2, 120)
    second = lines(log)[1]
    assert second != first
    assert cluster.nodes.state(first).startswith("down")
    assert cluster.status().state == "broken"
    assert cluster.status().dead == [f"slurmd-{first}"]
    cluster.recover_node(first)
    assert cluster.nodes.state(first) == "idle"
    assert cluster.status().state == "up"
    assert field(cluster, job, "Restarts") == "1"


def test_a_drained_node_takes_no_jobs_until_it_recovers(cluster):
    cluster.drain_node("n4")
    refused = cluster.client.run("srun", "--immediate=2", "--nodelist=n4", "true")
    assert refused.returncode != 0
    cluster.recover_node("n4")
    assert cluster.client.run("srun", "--nodelist=n4", "true").returncode == 0


def test_jobs_outlive_a_controller_that_goes_and_comes(cluster, eventually):
    job = submit(cluster, "--output=/dev/null", "--wrap=sleep 600")
    eventually(lambda: field(cluster, job, "JobState") == "RUNNING", 30)
    cluster.stop_controller()
    assert cluster.status().dead == ["slurmctld"]
    assert cluster.client.run("scontrol", "ping").returncode != 0
    cluster.start_controller()
    assert field(cluster, job, "JobState") == "RUNNING"
    assert field(cluster, job, "Restarts") == "0"


def test_sacct_answers_with_accounting_and_refuses_without(accounting_cluster, testbed, eventually):
    job = submit(accounting_cluster, "--output=/dev/null", "--wrap=exit 3")
    ask = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,ExitCode,Account")
    eventually(lambda: accounting_cluster.client.run(*ask).stdout.strip() == "FAILED|3:0|lab", 60)
    without = testbed.client.run("sacct")
    assert without.returncode != 0
    assert "accounting storage is disabled" in without.stderr


def test_two_testbeds_stand_side_by_side(cluster, tmp_path):
    other = Testbed(Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp")))
    try:
        other.up(nodes=1, gpus=1)
        assert [node.name for node in other.status().nodes] == ["n1"]
        assert other.client.run("srun", "printenv", "SLURM_CLUSTER_NAME").stdout != ""
        assert len(cluster.status().nodes) == 4
        queued = submit(other, "--hold", "--output=/dev/null", "--wrap=true")
        assert queued not in cluster.client.run("squeue", "--noheader", "--format=%i").stdout.split()
    finally:
        other.down()
    assert cluster.status().state == "up"
    assert cluster.client.run("srun", "true").returncode == 0


def traces(folder: Path) -> tuple[list[str], list[str]]:
    """What mentions ``folder`` among processes, and files of SLURM's kind where daemons like to leave some."""
    running = [
        process.command
        for process in processes.processes()
        if str(folder) in process.command or str(folder) in " ".join(process.environment.values())
    ]
    places = ("/tmp", "/run", "/dev/shm", "/var/log", "/var/spool", "/var/lib", "/var/tmp")
    files = [
        str(entry)
        for place in places
        for entry in Path(place).glob("*")
        if any(word in entry.name for word in ("slurm", "munge", "mysql", "maria", folder.name))
    ]
    return running, sorted(files)


@pytest.mark.parametrize("accounting", [False, True])
def test_down_leaves_no_process_and_no_file(testbed, accounting_testbed, eventually, accounting):
    folder = Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp"))
    folder.rmdir()
    before = traces(folder)
    bed = Testbed(folder)
    bed.up(nodes=2, gpus=2, accounting=accounting)
    script = f"trap '' TERM USR2 CONT; setsid sleep 602 & srun sleep 603 & touch {folder}/runs; wait"
    submit(bed, "--nodes=2", "--output=/dev/null", f"--wrap={script}")
    waiting = subprocess.Popen(["srun", "--nodelist=n2", "sleep", "604"], env=bed.environment(), stderr=subprocess.PIPE)
    eventually((folder / "runs").exists, 30)
    eventually(lambda: "srun" not in before and len(traces(folder)[0]) > len(before[0]) + 6, 30)
    assert bed.down()
    waiting.communicate(timeout=30)
    assert traces(folder) == before
    assert not bed.down()
    assert bed.status().state == "down"


def test_a_testbed_that_another_version_started_is_taken_down(testbed):
    bed = Testbed(Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp")))
    bed.up(nodes=1, gpus=0)
    assert len(marked(str(bed.folder))) >= 3
    file = bed.folder / PLAN_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"what_we_do_not_know": 1}))
    assert bed.down()
    assert not marked(str(bed.folder)) and not bed.folder.exists()


def test_a_shell_that_points_at_the_testbed_survives_its_down(testbed):
    bed = Testbed(Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp")))
    bed.up(nodes=1, gpus=0)
    with subprocess.Popen(["sleep", "605"], env=bed.environment()) as bystander:
        bed.down()
        assert bystander.poll() is None
        bystander.kill()


def test_up_twice_is_up_once_and_another_shape_is_refused(testbed):
    before = testbed.status()
    started = {process.pid for process in of_testbed(Plan.load(testbed.folder))}
    assert testbed.up() == before
    assert {process.pid for process in of_testbed(Plan.load(testbed.folder))} == started
    with pytest.raises(RequestError, match="up already, with nodes=4"):
        testbed.up(nodes=2)


def test_an_up_killed_halfway_is_taken_down(testbed):
    folder = Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp"))
    script = (
        "import os, sys, pathlib; from slurm.testbed import Testbed, nodes\n"
        "nodes.Nodes.start = lambda *arguments: os.kill(os.getpid(), 9)\n"
        "Testbed(pathlib.Path(sys.argv[1])).up()"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    bed = Testbed(folder)
    assert bed.status().state == "broken"
    with pytest.raises(RequestError, match="mvdiff testbed down"):
        bed.up()
    assert bed.down()
    assert not folder.exists()
    assert not traces(folder)[0]


def test_what_a_reboot_left_behind_is_no_hindrance(testbed):
    bed = Testbed(Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp")))
    try:
        bed.up(nodes=1, gpus=1)
        plan = Plan.load(bed.folder)
        assert not processes.kill_until_gone(lambda: of_testbed(plan), seconds=10)
        assert bed.status().state == "down"
        assert bed.up(nodes=1, gpus=1).state == "up"
    finally:
        bed.down()


def test_a_daemon_that_fails_is_named_with_its_reason_and_its_log(testbed, monkeypatch):
    plan = Plan.load(testbed.folder)
    # The other testbed's controller listens there.
    monkeypatch.setattr("slurm.testbed.bed.free_ports", lambda count: plan.ports)
    bed = Testbed(Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp")))
    try:
        with pytest.raises(RequestError, match=r"slurmctld .*(in use|bind)") as failure:
            bed.up()
        assert "\n" not in str(failure.value)
        assert Path(failure.value.mend.removeprefix("read ")).is_file()
        assert not of_testbed(Plan.load(bed.folder))
    finally:
        bed.down()
    assert testbed.status().state == "up"


PACKAGES = ["munge", "libmunge2", "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins"]

# In a mount namespace of its own, where the installed SLURM has neither plugins nor libraries, and cgroups are v2's.
UNPACKED = """
import sys
from pathlib import Path
from slurm.testbed import Testbed
folder, packages = map(Path, sys.argv[1:])
assert Path("/sys/fs/cgroup/cgroup.controllers").exists()
bed = Testbed(folder)
try:
    assert bed.up(nodes=2, gpus=2, packages=packages).state == "up"
    shown = "command -v srun; echo $CUDA_VISIBLE_DEVICES"
    step = bed.client.run("srun", "--nodes=2", "--gpus-per-node=2", "sh", "-c", shown)
    print(step.stdout, step.stderr)
finally:
    bed.down()
"""


def test_packages_merely_unpacked_do_where_nothing_is_installed(testbed, tmp_path):
    (tmp_path / "debs").mkdir()
    fetched = subprocess.run(
        ["apt-get", "download", "-o", "APT::Sandbox::User=root", *PACKAGES],
        cwd=tmp_path / "debs",
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode != 0:
        pytest.skip(f"apt-get download: {fetched.stderr.strip().splitlines()[-1]}")
    root = tmp_path / "root"
    for package in (tmp_path / "debs").glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    mounts = """
        mount -t tmpfs none /usr/lib/*/slurm-wlm
        mount --bind /dev/null /usr/lib/*/libmunge.so.2
        umount -R /sys/fs/cgroup
        mount -t cgroup2 none /sys/fs/cgroup
        exec "$@"
    """
    folder = tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp")
    try:
        answer = subprocess.run(
            [
                *("unshare", "--mount", "sh", "-ec", mounts, "sh"),
                *(sys.executable, "-c", UNPACKED, folder, str(root)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        if "unshare" in answer.stderr or "mount:" in answer.stderr:
            pytest.skip(f"no mount namespace of its own here: {answer.stderr.strip().splitlines()[-1]}")
        assert answer.returncode == 0, answer.stderr
        # Two tasks write at once, so their words may come interleaved.
        assert sorted(answer.stdout.split()) == sorted([f"{root}/usr/bin/srun", "0,1"] * 2)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
