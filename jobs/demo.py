"""`mvdiff demo`: the whole way on this machine, with one interruption on purpose."""

import os
import shlex
import signal
import threading
import time
from collections.abc import Sequence

from omegaconf import OmegaConf

from jobs.groups import CONFIGS
from jobs.launch import Request, launch
from jobs.runfolder import JobFolder, Run
from jobs.watch import task_events
from mvdiff.errors import InputError
from mvdiff.events import read_events
from mvdiff.progress import duration

HELP = """\
mvdiff demo: the whole way on this machine: synth, train, generate, evaluate

usage: mvdiff demo

Renders procedural mice into shards, trains the small model on them in two processes, interrupts that job once with the
signal SLURM would send (it resumes by itself), generates six views of every held-out picture with two workers, and
writes runs/demo/report/index.html. Needs no cluster and no GPU; under 5 minutes on 2 cores. What is done already is
kept: a second call ends at once. The commands it runs are those of configs/demo.yaml, shown as they start.

exit status
  0 done, 1 a job failed, 2 the request was wrong"""


def demo(words: Sequence[str]) -> int:
    """Run the commands of ``configs/demo.yaml`` one after the other."""
    if words:
        if words[0] not in ("-h", "--help"):
            raise InputError(f"demo takes no {words[0]!r}", "see mvdiff demo --help")
        print(HELP)
        return 0
    plan = OmegaConf.load(CONFIGS / "demo.yaml")
    run = Run.named("runs", plan.run)
    begin = time.monotonic()
    for line in plan.jobs:
        name, *overrides = shlex.split(line)
        overrides.insert(0, f"run={plan.run}")
        spent = duration(time.monotonic() - begin)
        print(f"\n[{spent}] $ mvdiff {name} {shlex.join(overrides)} --wait", flush=True)
        if name == "train":
            threading.Thread(target=_interrupt, args=(run, plan.interrupt_at_step), daemon=True).start()
        status = launch(Request(name, overrides, wait=True))
        if status:
            return status
    return 0


def _interrupt(run: Run, step: int) -> None:
    """Send the warning signal to every process of the next training job once it has passed ``step``."""
    before = {folder.path for folder in run.jobs()}
    while True:
        time.sleep(0.2)
        for folder in run.jobs():
            if folder.job == "train" and folder.path not in before and _reached(folder, step):
                print(f"demo: interrupting the training job with SIGUSR2 after step {step}", flush=True)
                for event in task_events(folder):
                    os.kill(event["pid"], signal.SIGUSR2)
                return


def _reached(folder: JobFolder, step: int) -> bool:
    return any(event.get("last", 0) >= step for event in read_events(folder.events))
