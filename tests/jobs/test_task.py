"""What every process of a job finds when its work begins, seen by a real local job."""

import textwrap
import time

from omegaconf import DictConfig

from jobs.runfolder import Run
from jobs.task import Task
from slurm.submission import states
from slurm.submitter import Submitter
from tests.site import site

JOB = """
    import os
    ARRAY = False

    def work(config, context):
        (context.folder.path / f"gpu-{context.place.rank}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        return "done"
"""


def test_each_process_works_on_a_gpu_of_its_own(tmp_path):
    folder = Run(tmp_path).next_job("pack")
    folder.create(DictConfig({"cluster": {"time_min": 5}}), [])
    (folder.code / "jobs/pack.py").write_text(textwrap.dedent(JOB))
    cluster = site(kind="local", gpus_per_node=2, time_min=5)
    submission = Submitter(cluster, "x", folder.logs, folder.code, 30, 1).submit(Task(folder.path), None)
    deadline = time.monotonic() + 60
    while not all(state.ended for state in states(submission).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [(folder.path / f"gpu-{rank}").read_text() for rank in (0, 1)] == ["0", "1"]
