"""Whatever ends a job that nobody cancelled and that did not give up, it starts again by itself: on a real SLURM."""

import getpass
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from jobs.failure import Failure, first_failure
from jobs.runfolder import JobFolder, Run
from jobs.task import Task
from mvdiff.events import read_events
from slurm.queue import job_fields
from slurm.submitter import Submitter
from slurm.testbed import Testbed, processes
from tests.site import site

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("comeback")]

# Takes the place of a job module in the code that the job runs. The first start does as it is told, the next one ends.
JOB = """
    import ctypes, os, resource, signal, time
    from pathlib import Path
    from mvdiff.errors import Hopeless

    ARRAY = False

    def lock_twice(library):  # unlike sleep, no signal ends it
        mutex = ctypes.create_string_buffer(128)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)

    def until_stopped(context):
        while not context.should_stop():
            time.sleep(0.02)
        return "stopped"

    def work(config, context):
        first, rank = context.place.restart == 0, context.place.rank
        context.events.write("working", rank=rank, restart=context.place.restart, left=context.time_left())
        if not (first or config.act.get("always")):
            return "done"
        act = config.act.name if rank == config.act.get("rank", rank) else "wait"
        if act == "hopeless":
            raise Hopeless("no use: stop trying")
        if act == "raise":
            raise RuntimeError("a bad node")
        if act == "exit":
            os._exit(7)
        if act == "segfault":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)
        if act == "hang":
            lock_twice(ctypes.CDLL(None))
        if act == "hang with the interpreter's lock":
            lock_twice(ctypes.PyDLL(None))
        outcome, stopped = until_stopped(context), time.monotonic()
        while rank == 0 and context.time_left() > 60 and time.monotonic() < stopped + 2:
            time.sleep(0.02)
        context.events.write("stopping", rank=rank, left=context.time_left())
        return outcome
"""
IMPORTING = """
import os, pathlib, signal, time
_logs = pathlib.Path({logs!r})
if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    (_logs / f"importing-{{os.environ['SLURM_PROCID']}}").touch()
    while not (_logs / "go").exists():
        if signal.SIGUSR2 in signal.sigpending():
            (_logs / f"warned-{{os.environ['SLURM_PROCID']}}").touch()
        time.sleep(0.02)
"""


class Probe:
    """One small job of two ranks on two nodes, and what its processes said."""

    def __init__(self, folder: Path, act: dict, start_up: str = "", tries: int | None = 3, **asked) -> None:
        config = DictConfig({"act": act, "cluster": {"time_min": 10}})
        self.folder: JobFolder = Run(folder).next_job("pack")
        self.folder.create(config, [])
        (self.folder.code / "jobs/pack.py").write_text(textwrap.dedent(JOB))
        task = self.folder.code / "jobs/task.py"
        task.write_text(task.read_text() + start_up.format(logs=str(self.folder.logs)))
        cluster = site(**{"nodes": 2, "tasks_per_node": 1, "time_min": 10, "partition": "low", **asked})
        submitter = Submitter(cluster, "probe", self.folder.logs, self.folder.code, 30, tries)
        self.submission = submitter.submit(Task(self.folder.path), None)
        (self.id,) = self.submission.job_ids

    def events(self, kind: str, restart: int | None = None) -> list[dict]:
        found = [event for event in read_events(self.folder.events) if event["kind"] == kind]
        return [event for event in found if restart is None or event.get("restart") == restart]

    def working(self) -> dict[int, dict]:
        """Every rank's first start, once both are at work; empty before."""
        found = {event["rank"]: event for event in self.events("working", restart=0)}
        return found if len(found) == 2 else {}

    def pid(self, rank: int) -> int:
        return next(event["pid"] for event in self.events("task started", restart=0) if event["rank"] == rank)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.logs.glob("*.out")))

    def failure(self) -> Failure | None:
        return first_failure(self.folder, self.submission)

    @property
    def state(self) -> str:
        return job_fields(self.id)["JobState"]

    @property
    def restarts(self) -> int:
        return int(job_fields(self.id)["Restarts"])

    @property
    def importing(self) -> bool:
        """Whether both ranks are; a signal that comes before a process is nobody's."""
        return len(list(self.folder.logs.glob("importing-*"))) == 2

    @property
    def warned(self) -> bool:
        """Whether the signal has come to both: a command that sends one does not wait for that."""
        return len(list(self.folder.logs.glob("warned-*"))) == 2

    def go_on(self) -> None:
        (self.folder.logs / "go").touch()

    def is_back(self, restart: int = 1) -> bool:
        return self.state == "COMPLETED" and len(self.events("working", restart=restart)) == 2

    def is_back_at_last(self) -> bool:
        """Whenever: of the minute to which ``scontrol`` has cut its time SLURM may warn each of its starts at once."""
        return self.is_back(self.restarts) and self.restarts > 0


@pytest.fixture
def probe(tmp_path) -> Callable[..., Probe]:
    def submit(act: str, **more) -> Probe:
        given = {name: more.pop(name) for name in ("rank", "always") if name in more}
        return Probe(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", {"name": act, **given}, **more)

    return submit


@pytest.fixture
def container(tmp_path) -> Callable[..., dict]:
    """What a site says of a container by Charliecloud: the programs of this machine, but nothing of SLURM's to ask."""
    if shutil.which("ch-run") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a container needs ch-run (charliecloud-runtime)")
    image = tmp_path / "image"
    tops = {f"/{Path(path).parts[1]}" for path in (sys.prefix, sys.base_prefix, __file__)} - {"/tmp", "/usr"}
    inside = [path for path in ("/bin", "/lib", "/lib64", "/usr", *sorted(tops)) if Path(path).exists()]
    for folder in ("dev", "etc", "home", "proc", "sys", "tmp", *(path[1:] for path in inside)):
        (image / folder).mkdir(parents=True, exist_ok=True)
    for file in ("group", "hosts", "nsswitch.conf", "passwd", "resolv.conf"):
        (image / "etc" / file).touch()
    binds = [*inside, *(f"/dev/null:{path}/scontrol" for path in ("/usr/bin", "/bin"))]

    def command(*more: str) -> list[str]:
        return ["ch-run", *(word for bind in (*binds, *more) for word in ("-b", bind)), str(image), "--"]

    environment = {"USER": getpass.getuser()}
    tried = subprocess.run([*command(), "true"], env=os.environ | environment, capture_output=True, text=True)
    if "namespace" in tried.stderr:
        pytest.skip(f"this machine allows no containers: {tried.stderr.strip()}")

    def asked(*more: str) -> dict:
        return {"container": shlex.join(command(*more)), "environment": environment}

    return asked


def scancel(*words: str) -> None:
    subprocess.run(["scancel", *words], check=True)


def batch_shell(job_id: str) -> int:
    """Process id of the batch script of a job."""
    script = f"/bin/bash .*/job{int(job_id):05d}/slurm_script"
    return next(process.pid for process in processes.processes() if re.match(script, process.command))


@pytest.fixture(params=["cluster", "accounting_cluster"])
def either_cluster(request) -> Testbed:
    """Without accounting, and with it."""
    return request.getfixturevalue(request.param)


def test_however_a_rank_dies_the_job_is_back(either_cluster, probe, eventually):
    killed = [probe("wait"), probe("wait")]
    others = [probe("exit", rank=1), probe("segfault", rank=0), probe("raise", rank=1)]
    for rank, job in enumerate(killed):
        eventually(job.working, 60)
        os.kill(job.pid(rank), signal.SIGKILL)
    died = time.time()
    for job in killed + others:
        eventually(job.is_back, 90)
        assert job.restarts == 1
    back = max(event["time"] for job in killed for event in job.events("task started", restart=1))
    print(f"\nfrom kill to start: {back - died:.1f} s")
    assert [event["error"] for event in others[2].events("task failed")] == ["RuntimeError: a bad node"]


def test_a_job_that_gave_up_or_was_cancelled_or_has_had_its_tries_stays_away(cluster, probe, eventually):
    broken = probe("wait", start_up="raise ImportError('no such thing')", tries=None)
    failing = probe("raise", rank=1, always=True)
    hopeless = probe("hopeless", rank=1)
    cancelled, starting = probe("wait"), probe("wait", start_up=IMPORTING)
    eventually(cancelled.working, 60)
    scancel(cancelled.id)
    eventually(lambda: starting.importing, 60)
    scancel(starting.id)
    starting.go_on()
    for job, state, restarts in [(hopeless, "FAILED", 0), (cancelled, "CANCELLED", 0), (starting, "CANCELLED", 0),
                                 (failing, "FAILED", 2), (broken, "FAILED", 2)]:  # fmt: skip
        eventually(lambda job=job, state=state: job.state == state, 90)
        assert job.restarts == restarts
    assert "ended unasked 3 times: it does not come back" in failing.log()
    assert "ended 3 times before its work began" in broken.log()
    assert [event["error"] for event in hopeless.events("task failed")] == ["no use: stop trying"]


def test_a_warning_during_start_up_is_not_lost(cluster, probe, eventually):
    job = probe("hang", start_up=IMPORTING)
    eventually(lambda: job.importing, 60)
    scancel("--signal=USR2", job.id)
    eventually(lambda: job.warned, 60)
    job.go_on()
    eventually(job.is_back, 60)
    assert {event["signal"] for event in job.events("task stopped")} == {"SIGUSR2"}
    assert not job.events("working", restart=0), "there was nothing to do first, so nothing was begun"


def test_a_job_whose_batch_script_is_killed_is_back(cluster, probe, eventually):
    job = probe("wait")
    eventually(job.working, 60)
    os.kill(batch_shell(job.id), signal.SIGKILL)
    eventually(job.is_back, 60)


def test_a_job_in_a_container_that_knows_no_slurm_is_back(cluster, probe, container, eventually):
    job = probe("wait", **container())
    eventually(job.working, 60)
    scancel("--signal=USR2", job.id)
    eventually(job.is_back, 60)
    assert f"job {job.id}: no scontrol in this container, the batch script asks" in job.log()


def test_what_a_container_has_against_its_start_is_told(cluster, probe, container, eventually):
    job = probe("wait", tries=None, **container("/dev/null:/nowhere/at-all"))
    eventually(lambda: job.state == "FAILED", 90)
    failure = job.failure()
    assert failure is not None
    assert failure.error.startswith(f"job {job.id} ended 3 times before its work began: it does not come back (ch-run[")
    assert "nowhere" in failure.error


def test_a_job_that_runs_out_of_time_is_back(cluster, probe, eventually):
    """One that Python can still act in, one in which it cannot."""
    hanging, frozen = probe("hang"), probe("hang with the interpreter's lock")
    for job in (hanging, frozen):
        eventually(job.working, 60)
    for job, seconds in [(hanging, 10), (frozen, 2)]:
        assert 500 < job.working()[0]["left"] <= 600
        subprocess.run(["scontrol", "update", f"JobId={job.id}", f"EndTime=now+{seconds}"], check=True)
    scancel("--signal=USR2", hanging.id)
    for job in (hanging, frozen):
        eventually(job.is_back_at_last, 120)
        assert len(job.events("task stopped")) >= job.restarts - 1, "a further start went back without a warning"
    (overdue,) = hanging.events("task overdue")
    assert re.fullmatch(r"no step boundary within \d+ s of the warning: going .* without saving", overdue["reason"])
    assert not frozen.events("task overdue")


def test_a_preempted_job_knows_when_its_grace_ends(cluster, probe, eventually):
    job = probe("wait")
    eventually(job.working, 60)
    subprocess.run(["sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=true"],
                   check=True, capture_output=True)  # fmt: skip
    eventually(job.is_back, 90)
    left = {event["rank"]: event["left"] for event in job.events("stopping")}
    assert 10 < left[0] <= 20, "the testbed's grace"


def test_a_job_that_ends_while_the_controller_is_away_is_back(cluster, probe, eventually):
    job = probe("wait")
    eventually(job.working, 60)
    cluster.stop_controller()
    os.kill(job.pid(0), signal.SIGKILL)
    cluster.start_controller()
    eventually(job.is_back, 120)
