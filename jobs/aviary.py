"""The canaries of one run of `mvdiff doctor cluster=SITE`: sent all at once, watched, and understood."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jobs.canary import HEAVY, Canary, reports
from jobs.runfolder import JobFolder, Run, Taken
from mvdiff.durable import write_json
from mvdiff.errors import InputError, counted
from slurm.canary import array, clock, comeback, commands, environment, filesystem, gpu, network, preemption, warning
from slurm.canary.finding import CHANGE, Finding
from slurm.canary.report import Figures, Reports
from slurm.cluster import Cluster
from slurm.command import reason
from slurm.errors import RequestError
from slurm.patience import persevere
from slurm.queue import Pending, cpus, host_list, largest_array, nodes, partitions, pending
from slurm.sbatch import cancel, try_out
from slurm.script import BatchScript
from slurm.submission import State, Submission, states
from slurm.submitter import Submitter

ON_NODES = ("commands", "environment", "gpus", "clock", "filesystem", "network")
"""Parts that one canary measures, one after the other, in every rank."""
PARTS = (*ON_NODES, "signal", "requeue", "array", "preemption")

MEMBERS = 3
LEAD_S = 40
"""Asked for by the canary of the signal, whose time limit is two minutes: SLURM may send it a minute early."""
_MINUTES = {"nodes": 6, "signal": 2, "requeue": 2, "array": 2, "preemption": 15, "taker": 1}
_SLACK_MIN = 5
"""From a canary's time limit until the queue must have said that it ended."""
_LOOK_S = 0.5
_ASK_S = 3.0
_TELL_S = 60.0
_SETTLE_S = 10.0
"""How long what an ended canary wrote may take to be seen here."""


class Aviary:
    """The canaries in one folder below ``RUNS/.doctor``."""

    def __init__(self, folder: JobFolder, cluster: Cluster, tell: Callable[[str], None]) -> None:
        self.path = folder.path
        self._folder, self._cluster, self._tell = folder, cluster, tell
        self._config = folder.config()
        self._reports = Reports(reports(folder))
        self._sent: dict[str, Submission] = {}
        self._states: dict[str, list[State]] = {}
        self._ended_at: dict[str, float] = {}

    @classmethod
    def of(cls, config: DictConfig, cluster: Cluster, words: Sequence[str], tell: Callable[[str], None]) -> "Aviary":
        """Those sent earlier for the same request that have not told everything, or new ones.

        Raises:
            InputError: there is no such partition to be preempted by.
            RequestError: the queue does not take them; then none of them stays in it.
        """
        run = Run.named(str(config.runs), ".doctor")
        if config.resume:
            for folder in reversed(run.jobs()):
                if (folder.path / "canaries.json").exists() and _same(folder.config(), config):
                    if (folder.path / "findings.json").exists():
                        break
                    found = cls(folder, cluster, tell)
                    found._recall()
                    tell(f"goes on with the canaries sent before: {found._shown()}")
                    return found
        by = config.preempted_by
        if by is not None and by not in (known := persevere(partitions, tell)):
            raise InputError(f"preempted_by={by} is no partition", f"choose from {', '.join(known)}")
        available = sum(persevere(lambda: nodes(cluster.partition), tell).values())
        if available < config.nodes:
            tell(f"only {counted(available, 'node')} of the partition can take jobs now")
            config.nodes = max(available, 1)
        while True:
            folder = run.next_job("doctor")
            with suppress(Taken):
                folder.create(config, words)
                break
        for name in ("reports", "tried", "meeting"):
            (folder.path / name).mkdir()
        new = cls(folder, cluster, tell)
        try:
            new._send()
        except BaseException:
            with suppress(RequestError):
                cancel(new._roots(new._sent))
            folder.discard()
            raise
        tell(f"canaries in the queue: {new._shown()}")
        return new

    def watch(self, told: Callable[[Finding], None]) -> tuple[list[Finding], dict[str, str]]:
        """Wait for the canaries; each finding is ``told`` as it comes.

        Returns:
            the findings in the order of the parts, and the parts that are not known yet, each with the reason.
        """
        began = time.monotonic()
        ask_at = tell_at = 0.0
        found: dict[str, list[Finding]] = {}
        waiting: dict[str, Pending] = {}
        while left := [part for part in self._config.parts if part not in found]:
            now = time.monotonic()
            if now >= ask_at:
                waiting = {}
                with suppress(RequestError):
                    self._ask()
                    waiting = pending(self._roots(self._sent))
                ask_at = now + _ASK_S
            for part in left:
                if self._ready(part):
                    found[part] = self._judged(part)
                    for finding in found[part]:
                        told(finding)
            if now - began > 60 * self._config.wait_min and all(
                self._why(part, waiting) for part in left if part not in found
            ):
                break
            if now - began > 60 * (self._config.wait_min + max(_MINUTES.values()) + _SLACK_MIN):
                # A queue that is silent, or never says that a job has ended, must not hold the command for ever.
                break
            if now >= tell_at + _TELL_S:
                for name, why in {self._canary(part): self._why(part, waiting) for part in left}.items():
                    if why and tell_at:
                        self._tell(f"{name} {why}")
                tell_at = now
            self._take_node()
            time.sleep(_LOOK_S)
        unknown = {part: self._why(part, waiting) or "no answer" for part in self._config.parts if part not in found}
        if not unknown:
            write_json(self.path / "findings.json", {part: [str(f) for f in found[part]] for part in found})
            with suppress(RequestError):
                cancel(self._roots({name: sent for name, sent in self._sent.items() if not self._over(name)}))
        return [finding for part in self._config.parts for finding in found.get(part, [])], unknown

    def figures(self) -> dict[str, list[Figures]]:
        """Everything that the canaries have told, by part."""
        return {part: self._reports.read(part) for part in self._config.parts}

    def _plan(self) -> dict[str, tuple[Cluster, int | None]]:
        """The canaries, each with its share of the cluster and its workers."""
        parts, cluster = self._config.parts, self._cluster
        several = replace(cluster, nodes=self._config.nodes, workers=1, signal_lead_s=None)
        small = replace(several, nodes=1, tasks_per_node=1, gpus_per_node=min(cluster.gpus_per_node, 1))
        plan: dict[str, tuple[Cluster, int | None]] = {}
        if set(ON_NODES) & set(parts):
            plan["nodes"] = several, None
        if "signal" in parts:
            plan["signal"] = several, None
        if "requeue" in parts:
            plan["requeue"] = small, None
        if "array" in parts:
            plan["array"] = replace(small, workers=MEMBERS), MEMBERS
        if "preemption" in parts and self._config.preempted_by:
            plan["preemption"] = small, None
        return {name: (replace(share, time_min=_MINUTES[name]), workers) for name, (share, workers) in plan.items()}

    def _send(self) -> None:
        plan = self._plan()
        submitters = {name: self._submitter(name, share) for name, (share, _) in plan.items()}
        for name, (_, workers) in plan.items():
            submitters[name].check(workers)
        for name, (_, workers) in plan.items():
            self._sent[name] = submitters[name].submit(Canary(self.path, name), workers)
        self._remember()

    def _submitter(self, name: str, share: Cluster) -> Submitter:
        return Submitter(
            share,
            f"doctor-{name}",
            self._folder.logs,
            self._folder.code,
            LEAD_S + share.signal_late_s,
            1,
            lambda line: self._tell(line),
        )

    def _remember(self) -> None:
        write_json(self.path / "canaries.json", {name: sent.to_json() for name, sent in self._sent.items()})

    def _recall(self) -> None:
        told = json.loads((self.path / "canaries.json").read_text(encoding="utf-8"))
        self._sent = {name: Submission(**sent) for name, sent in told.items()}

    def _shown(self) -> str:
        return ", ".join(f"{name} {sent.shown}" for name, sent in self._sent.items()) or "none needed"

    @staticmethod
    def _roots(sent: dict[str, Submission]) -> list[str]:
        return sorted({id_.partition("_")[0] for submission in sent.values() for id_ in submission.job_ids})

    def _ask(self) -> None:
        for name, sent in self._sent.items():
            self._states[name] = list(states(sent).values())
            if self._over(name):
                self._ended_at.setdefault(name, time.monotonic())

    def _over(self, name: str) -> bool:
        known = self._states.get(name, [])
        return bool(known) and all(state.ended for state in known)

    def _canary(self, part: str) -> str:
        return "nodes" if part in ON_NODES else part

    def _why(self, part: str, waiting: dict[str, Pending]) -> str:
        """Why the canary of a part does not run yet; empty where it does or did."""
        sent = self._sent.get(self._canary(part))
        held = waiting.get(sent.job_ids[0].partition("_")[0]) if sent else None
        return f"queued since {time.strftime('%H:%M', time.localtime(held.since))} because {held.why}" if held else ""

    def _expected(self, part: str) -> int:
        if part == "array":
            return MEMBERS
        if part in ("requeue", "preemption"):
            return 2
        return self._ranks

    @property
    def _ranks(self) -> int:
        return int(self._config.nodes) * self._cluster.tasks

    def _ready(self, part: str) -> bool:
        name = self._canary(part)
        if name not in self._sent or len(self._reports.read(part)) >= self._expected(part):
            return True
        if not self._over(name):
            return False
        completed = all(state.word == "COMPLETED" for state in self._states[name])
        return not completed or time.monotonic() > self._ended_at[name] + _SETTLE_S

    def _judged(self, part: str) -> list[Finding]:
        told = self._reports.read(part)
        if part in (*ON_NODES, "signal") and len(told) < (1 if part == "signal" else self._ranks):
            return [self._silent(part, len(told))]
        match part:
            case "commands":
                return commands.judge(commands.measure(), told)
            case "environment":
                return environment.judge(environment.measure(), told, HEAVY)
            case "gpus":
                return gpu.judge(told, self._cluster.gpus_per_node, self._cluster.gpus_of_a_task)
            case "clock":
                return clock.judge(told)
            case "filesystem":
                return self._folders(told)
            case "network":
                return network.judge(told, self._config.nodes)
            case "signal":
                return warning.judge(told, LEAD_S, self._ranks, self._cluster.signal_late_s)
            case "requeue":
                return comeback.judge(told, self._last_words(part)) if told else [self._silent(part, 0)]
            case "array":
                largest = largest_array()
                return array.judge(told, MEMBERS, largest, self._refusal(largest))
            case _:
                return self._preemption(told)

    def _folders(self, told: list[Figures]) -> list[Finding]:
        findings = []
        for name in told[0]["folders"]:
            rows = [{"node": row["node"], "rank": row["rank"], **row["folders"][name]} for row in told]
            shown = str(self.path.parent.parent.parent) if name == "own" else name
            judged = filesystem.judge(shown, rows, needed=name == "own")
            if name == "own":
                judged[0] = replace(judged[0], learned=self._shared(shown, judged))
            findings += judged
        return findings

    def _shared(self, folder: str, judged: list[Finding]) -> dict[str, Any]:
        """The folders that are known to be shared, now that the one of all runs was ``judged``; none if that is no
        news."""
        known = self._cluster.shared
        good = all(finding.level != CHANGE for finding in judged)
        if good == (folder in known):
            return {}
        return {"shared": [*known, folder] if good else [one for one in known if one != folder]}

    def _preemption(self, told: list[Figures]) -> list[Finding]:
        promise = preemption.promised(self._cluster.partition)
        if "preemption" in self._sent:
            return preemption.judge(told)
        return preemption.judge_promise(promise)

    def _refusal(self, members: int) -> str | None:
        share, _ = self._plan()["array"]
        script = BatchScript(
            replace(share, workers=members), "doctor-array", self._folder.logs, self._folder.code, LEAD_S, 1
        )
        try:
            try_out(script.text(members))
        except RequestError as error:
            return reason(error)
        return None

    def _silent(self, part: str, told: int) -> Finding:
        name = self._canary(part)
        ended = ", ".join(sorted({state.word for state in self._states.get(name, [])}))
        words = self._last_words(name)
        return Finding(
            part,
            CHANGE,
            f"the canary {self._sent[name].shown} ended ({ended}) and told of {counted(told, 'rank')} "
            f"of {self._expected(part)}" + (f"; its log ends: {words}" if words else "; it left no log here"),
            f"see {self._folder.logs}" if words else "choose runs= on a file system that the nodes share",
        )

    def _last_words(self, name: str) -> str:
        """The last line that a canary's log holds."""
        lines = []
        for job_id in self._sent[name].job_ids[:1]:
            with suppress(OSError):
                lines = self._sent[name].log(job_id).read_text(encoding="utf-8", errors="replace").splitlines()
            with suppress(OSError):
                batch = Path(self._sent[name].logs) / f"{job_id}_0_log.err"
                lines += batch.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line.strip() for line in lines if line.strip()]
        return told[-1][:200] if told else ""

    def _take_node(self) -> None:
        """Once the canary of preemption is the only one left: send the job that takes its node."""
        if "preemption" not in self._sent or "taker" in self._sent:
            return
        told = self._reports.read("preemption")
        # a node that is taken from the other canaries would warn them early, and they would tell of that
        if not told or not all(self._over(name) for name in self._sent if name != "preemption"):
            return
        node, by = told[0]["node"], str(self._config.preempted_by)
        share, _ = self._plan()["preemption"]
        others = [name for name in nodes(by) if name != node]
        share = replace(
            share, partition=by, exclude=host_list(others) if others else None, time_min=_MINUTES["taker"],
            cpus_per_task=cpus(node), gpus_per_node=0, memory_gb=None,
        )  # fmt: skip
        self._sent["taker"] = self._submitter("taker", share).submit(Canary(self.path, "taker"), None)
        self._remember()


def _same(one: DictConfig, other: DictConfig) -> bool:
    def essence(config: DictConfig) -> Any:
        content = OmegaConf.to_container(config)
        assert isinstance(content, dict)
        return {key: value for key, value in content.items() if key not in ("wait_min", "resume", "nodes", "write")}

    return bool(essence(one) == essence(other))
