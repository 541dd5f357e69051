"""A SLURM of one machine: several virtual nodes with GPUs, for tests and for trying things out."""

import fcntl
import os
import random
import shutil
import signal
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm.errors import RequestError
from slurm.testbed import accounting as accounting_database
from slurm.testbed import configuration
from slurm.testbed.client import Client
from slurm.testbed.daemons import Daemons
from slurm.testbed.nodes import Nodes, NodeStatus, of_testbed
from slurm.testbed.packages import Packages
from slurm.testbed.plan import Plan, free_ports
from slurm.testbed.processes import kill_until_gone, marked


@dataclass(frozen=True)
class Status:
    """What a testbed is doing."""

    state: str
    """``down``; ``up``: every daemon runs; ``broken``: some do not."""
    folder: str
    """Where it lies."""
    dead: list[str]
    """Daemons that should run and do not."""
    nodes: list[NodeStatus]
    """As the controller sees them."""
    jobs: dict[str, int]
    """How many jobs are in which state, finished ones of the last minutes included."""
    accounting: bool
    """Whether sacct answers."""
    version: str
    """SLURM's version; empty when down."""


def default_folder() -> Path:
    """The testbed of whoever names none."""
    return Path(f"/tmp/mvdiff-testbed-{os.getuid()}")


class Testbed:
    """A SLURM cluster on this machine, in ``folder`` and nowhere else.

    It has its own munged, ports, sockets and name, so it disturbs no other SLURM here, another testbed included.
    Jobs run as root. Three partitions: ``low`` (the default) and ``short`` are preempted by ``high``, and their jobs
    requeued; ``short`` has a time limit.
    """

    __test__ = False

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path(os.path.abspath(folder or default_folder()))  # noqa: PTH100

    @staticmethod
    def check(*, accounting: bool = False, packages: Path | None = None) -> None:
        """Make sure that a testbed can run here.

        Raises:
            RequestError: not root, or packages missing: with the command that installs them.
        """
        if os.getuid() != 0:
            raise RequestError("the testbed runs as root only (it makes device files)", "sudo mvdiff testbed up")
        installed = Packages(packages.resolve() if packages else None)
        installed.check(accounting)
        installed.version()

    def up(
        self,
        *,
        nodes: int = 4,
        gpus: int = 4,
        cpus: int = 8,
        accounting: bool = False,
        packages: Path | None = None,
        grace_seconds: int = 20,
        max_array_size: int = 1001,
        max_jobs: int = 10_000,
        short_minutes: int = 5,
    ) -> Status:
        """Start the cluster, and return once every node is idle. When it is up already in this shape, nothing happens.

        Args:
            nodes: virtual nodes, named n1, n2, ...
            gpus: GPUs a node; jobs see them in CUDA_VISIBLE_DEVICES only.
            cpus: CPUs a node, as the scheduler counts.
            accounting: also start slurmdbd with a MariaDB of its own, so that sacct answers.
            packages: a folder that Debian's packages were unpacked into by ``dpkg -x``, instead of installed ones.
            grace_seconds: from the warning signal of a preemption to the kill.
            max_array_size: job array indices stay below it.
            max_jobs: the queue holds no more, every member of an array and those that ended lately included.
            short_minutes: time limit of the partition ``short``.

        Raises:
            RequestError: not root, packages missing, another shape is up, or a daemon that fails: with the line of its
                log that tells why.
        """
        self.check(accounting=accounting, packages=packages)
        installed = Packages(packages.resolve() if packages else None)
        plan = Plan(
            folder=str(self.folder),
            nodes=nodes,
            gpus=gpus,
            cpus=cpus,
            accounting=accounting,
            packages=str(installed.root) if installed.root else None,
            grace_seconds=grace_seconds,
            max_array_size=max_array_size,
            max_jobs=max_jobs,
            short_minutes=short_minutes,
            first_job_id=random.randrange(1_000, 1_000_000, 1_000),
            ports=free_ports(2 + nodes),
        )
        plan.check()
        with self._held(create=True):
            if self._keeps_running(plan):
                return self.status()
            self._clear()
            plan.save()
            self._start(plan, installed)
            return self.status()

    def down(self) -> bool:
        """Kill every process of the testbed, jobs included, and remove its folder. False when there was nothing.

        Raises:
            RequestError: when the folder is not a testbed's, or a process cannot be killed.
        """
        if not self.folder.is_symlink() and not self.folder.exists():
            return False
        if "SLURMD_NODENAME" in os.environ and os.environ.get("SLURM_CONF", "").startswith(f"{self.folder}/"):
            raise RequestError("a job of the testbed cannot take it down", "run it outside the testbed's jobs")
        with self._held(create=False):
            self._clear()
            self.folder.rmdir()
        return True

    def status(self) -> Status:
        """What runs and what does not."""
        plan = Plan.load(self.folder)
        if plan is None:
            return Status("down", str(self.folder), [], [], {}, False, "")
        daemons = self._daemons(plan)
        running = daemons.running()
        if not running:
            return Status("down", str(self.folder), [], [], {}, plan.accounting, "")
        dead = [role for role in daemons.roles if role not in running]
        nodes: list[NodeStatus] = []
        jobs: Counter[str] = Counter()
        # Commands wait for most of a minute for a controller that is not there.
        if "slurmctld" in running:
            nodes = Nodes(daemons).states()
            answer = daemons.client.run("squeue", "--noheader", "--array", "--states=all", "--format=%T")
            jobs.update(answer.stdout.split())
        return Status(
            state="broken" if dead else "up",
            folder=str(self.folder),
            dead=dead,
            nodes=nodes,
            jobs=dict(jobs),
            accounting=plan.accounting,
            version=daemons.packages.version(),
        )

    def variables(self) -> dict[str, str]:
        """What a shell exports for SLURM's commands to reach this testbed: SLURM_CONF, and for unpacked packages paths.

        Raises:
            RequestError: when the testbed is down.
        """
        return self.client.variables()

    def environment(self) -> dict[str, str]:
        """The whole environment for a command that is to talk to this testbed, free of other clusters' traces."""
        return self.client.environment()

    @property
    def client(self) -> Client:
        """Runs SLURM's commands against this testbed."""
        plan = self._plan()
        return Client(plan, self._packages(plan))

    @property
    def nodes(self) -> Nodes:
        """The nodes, to look at and to break."""
        return Nodes(self._daemons(self._plan()))

    def crash_node(self, name: str) -> None:
        """Kill -9 all that runs on node ``name``, as a power cut would; the controller finds out by itself."""
        self.nodes.crash(name)

    def recover_node(self, name: str) -> None:
        """Bring a crashed or drained node back to taking jobs."""
        self.nodes.recover(name)

    def drain_node(self, name: str) -> None:
        """Let node ``name`` finish its jobs and take no more."""
        self.nodes.drain(name)

    def stop_controller(self) -> None:
        """Stop slurmctld as for maintenance: it saves its state; commands find no controller, jobs run on."""
        daemons = self._daemons(self._plan())
        if controller := daemons.running().get("slurmctld"):
            controller.signal(signal.SIGTERM)
            if not controller.gone(seconds=30):
                raise RequestError(f"slurmctld (pid {controller.pid}) does not stop", "look into it by hand")

    def start_controller(self) -> None:
        """Start slurmctld again from the state it saved."""
        daemons = self._daemons(self._plan())
        if "slurmctld" not in daemons.running():
            daemons.start_controller()

    def _start(self, plan: Plan, packages: Packages) -> None:
        daemons = Daemons(Client(plan, packages))
        try:
            configuration.write(plan, packages)
            daemons.start_munged()
            if plan.accounting:
                accounting_database.start(daemons)
            daemons.start_controller()
            Nodes(daemons).start(plan.node_names)
        except RequestError:
            # The message points at a log: leave the files, and the next up or down removes them.
            kill_until_gone(lambda: of_testbed(plan), seconds=10)
            raise
        except BaseException:
            self._clear()
            self.folder.rmdir()
            raise

    def _keeps_running(self, wanted: Plan) -> bool:
        plan = Plan.load(self.folder)
        if plan is None or not self._daemons(plan).running():
            return False
        status = self.status()
        if status.state != "up":
            raise RequestError(
                f"the testbed in {self.folder} is up without {', '.join(status.dead)}", "mvdiff testbed down, then up"
            )
        chance = ("first_job_id", "ports")
        now, then = ({k: v for k, v in asdict(each).items() if k not in chance} for each in (wanted, plan))
        differing = [f"{key}={then[key]}" for key in now if now[key] != then[key]]
        if differing:
            raise RequestError(
                f"the testbed in {self.folder} is up already, with {', '.join(differing)}",
                "mvdiff testbed down first, or name another folder",
            )
        return True

    def _clear(self) -> None:
        """Kill what the folder's testbed runs and empty the folder, itself excepted."""
        plan = Plan.load(self.folder)
        # another version of this program may have started it, whose plan says other things
        left = kill_until_gone(lambda: marked(str(self.folder)) if plan is None else of_testbed(plan), seconds=20)
        if left:
            raise RequestError(f"pid {left[0].pid} ({left[0].command}) does not die", "look into it by hand")
        for entry in self.folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    @contextmanager
    def _held(self, create: bool) -> Iterator[None]:
        """Hold the folder alone: two ups, or an up and a down, take turns."""
        if create:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = self._open_folder()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            here, there = os.fstat(handle), self.folder.stat() if self.folder.exists() else None
            if there is None or here.st_ino != there.st_ino:
                raise RequestError(f"{self.folder} was taken down meanwhile", "run the command again")
            yield
        finally:
            os.close(handle)

    def _open_folder(self) -> int:
        try:
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise RequestError(f"cannot open {self.folder} ({error.strerror})", "name another folder") from error
        found = os.fstat(handle)
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            os.close(handle)
            raise RequestError(
                f"{self.folder} is not this user's alone", "name another folder, or remove it if it is nobody's"
            )
        if any(self.folder.iterdir()) and not (self.folder / "testbed.json").is_file():
            os.close(handle)
            raise RequestError(f"{self.folder} holds files that are not a testbed's", "name another folder")
        return handle

    def _plan(self) -> Plan:
        plan = Plan.load(self.folder)
        if plan is None:
            raise RequestError(f"no testbed is up in {self.folder}", "mvdiff testbed up")
        return plan

    def _daemons(self, plan: Plan) -> Daemons:
        return Daemons(Client(plan, self._packages(plan)))

    @staticmethod
    def _packages(plan: Plan) -> Packages:
        return Packages(Path(plan.packages) if plan.packages else None)
