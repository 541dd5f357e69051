"""A testbed's nodes: their states, and the faults that tests inflict on them."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from slurm.errors import RequestError
from slurm.testbed.configuration import slurm_conf_file
from slurm.testbed.daemons import POLL_SECONDS, Daemons, step_daemon
from slurm.testbed.plan import Plan
from slurm.testbed.processes import MARK, ROLE, Process, kill_until_gone, processes, with_descendants


@dataclass(frozen=True)
class NodeStatus:
    """What the controller says of one node."""

    name: str
    """n1, n2, ..."""
    state: str
    """As sinfo writes it: idle, mixed, allocated, down, drained, ...; an asterisk marks a node that does not answer."""
    reason: str
    """Why it is down or drained; empty otherwise."""


class Nodes:
    """The virtual nodes of one testbed."""

    def __init__(self, daemons: Daemons) -> None:
        self.daemons = daemons
        self.plan = daemons.plan

    def states(self) -> list[NodeStatus]:
        """Every node's state; empty while the controller does not answer."""
        answer = self.daemons.client.run("sinfo", "--noheader", "--Node", "--format=%N|%T|%E")
        if answer.returncode != 0:
            return []
        found = {}
        for line in answer.stdout.splitlines():
            name, state, reason = line.split("|", 2)
            found[name] = NodeStatus(name, state, "" if reason == "none" else reason)
        return [found[name] for name in self.plan.node_names if name in found]

    def state(self, name: str) -> str:
        """The state of node ``name``."""
        self._check(name)
        return next((node.state for node in self.states() if node.name == name), "unknown")

    def start(self, names: Collection[str]) -> None:
        """Start the slurmds of ``names``, and wait until the controller can give each of them work.

        Raises:
            RequestError: when a slurmd dies or does not register in time.
        """
        for name in names:
            self.daemons.start_node(name)
        for name in names:
            self.daemons.wait(f"slurmd-{name}", lambda name=name: _serves(self.state(name)), seconds=60)  # type: ignore[misc]

    def crash(self, name: str) -> None:
        """Kill -9 everything of node ``name``, as a power cut would: slurmd, its step daemons and all tasks.

        The controller is not told: it finds out by itself, after SlurmdTimeout.
        """
        self._check(name)
        left = kill_until_gone(lambda: of_node(self.plan, name), seconds=10)
        if left:
            raise RequestError(
                f"node {name} still runs {left[0].command!r} (pid {left[0].pid})", "look into it by hand"
            )

    def recover(self, name: str) -> None:
        """Start a crashed or drained node again, and wait until it takes jobs."""
        self._check(name)
        if f"slurmd-{name}" not in self.daemons.running():
            self.daemons.start_node(name)
        if self.state(name).startswith(("drain", "drng")):
            self._update(name, "State=RESUME")
        self.daemons.wait(f"slurmd-{name}", lambda: _serves(self.state(name)), seconds=60)

    def drain(self, name: str, reason: str = "drained by a test") -> None:
        """Let node ``name`` finish its jobs and take no more."""
        self._check(name)
        self._update(name, "State=DRAIN", f"Reason={reason}")

    def wait(self, name: str, states: Collection[str], seconds: float) -> str:
        """Poll until node ``name`` is in one of ``states`` (an asterisk at their end is passed over); returns it.

        Raises:
            TimeoutError: when it is not after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while (state := self.state(name).rstrip("*")) not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"node {name} is {state}, not {' or '.join(states)}, after {seconds:g} s")
            time.sleep(POLL_SECONDS)
        return state

    def _update(self, name: str, *changes: str) -> None:
        answer = self.daemons.client.run("scontrol", "update", f"NodeName={name}", *changes)
        if answer.returncode != 0:
            raise RequestError(f"scontrol could not change node {name} ({answer.stderr.strip()})", "see testbed status")

    def _check(self, name: str) -> None:
        if name not in self.plan.node_names:
            raise RequestError(f"the testbed has no node {name!r}", f"name one of {', '.join(self.plan.node_names)}")


def of_node(plan: Plan, name: str) -> list[Process]:
    """All processes of node ``name``."""
    return _of_testbed(plan, role=f"slurmd-{name}", node=name)


def of_testbed(plan: Plan) -> list[Process]:
    """All processes of a testbed: its daemons, the tasks of its jobs, and commands that wait for its answers."""
    return _of_testbed(plan, role=None, node=None)


def _of_testbed(plan: Plan, role: str | None, node: str | None) -> list[Process]:
    everything = list(processes())
    conf = str(slurm_conf_file(plan))
    steps = {str(step_daemon(plan, name)) for name in ([node] if node else plan.node_names)}

    def belongs(process: Process) -> bool:
        variables = process.environment
        if process.executable in steps:
            return True
        if variables.get(MARK) == plan.folder:
            return role is None or variables.get(ROLE) == role
        if plan.cluster_name == variables.get("SLURM_CLUSTER_NAME") or conf == variables.get("SLURM_CONF"):
            # Tasks have a node. A shell that only points at the testbed has none, and is somebody's.
            host = variables.get("SLURMD_NODENAME")
            return host == node if node is not None else host is not None or _is_client(process)
        return False

    found = with_descendants(filter(belongs, everything), everything)
    # A step daemon that saw its tasks die before itself would tell the controller that the job failed.
    return sorted(found, key=lambda process: not (process.executable in steps or MARK in process.environment))


def _is_client(process: Process) -> bool:
    return process.command.split(" ", 1)[0].rpartition("/")[2] in {"srun", "salloc", "sbatch", "sattach"}


def _serves(state: str) -> bool:
    return state in {"idle", "mixed", "allocated"}
