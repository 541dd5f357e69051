"""What stands between the queue and submitit, seen by real local jobs."""

import sys
import textwrap
import time

from slurm.submission import states
from slurm.submitter import Submitter
from tests.site import site

JOB = """
    import os, signal
    from pathlib import Path
    from slurm.place import here

    class Killed:
        def __init__(self, folder):
            self.folder = folder

        def __call__(self):
            place = here()
            half = Path(self.folder) / f"{place.job_id}_{place.rank}_result.pkl.save_tmp"
            if place.restart == 0:
                half.write_text("half of a resu")
                os.kill(os.getpid(), signal.SIGKILL)
            assert not half.exists()
"""


def test_a_result_that_a_killed_start_left_half_written_is_in_nobody_s_way(tmp_path, monkeypatch):
    code, logs = tmp_path / "code", tmp_path / "logs"
    code.mkdir()
    logs.mkdir()
    (code / "killed_job.py").write_text(textwrap.dedent(JOB))
    monkeypatch.syspath_prepend(str(code))
    import killed_job

    submission = Submitter(site(kind="local", time_min=5), "x", logs, code, 30, 3).submit(
        killed_job.Killed(str(logs)), None
    )
    sys.modules.pop("killed_job")
    (job,) = submission.job_ids
    deadline = time.monotonic() + 60
    while not all(state.ended for state in states(submission).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (logs / f"{job}_0_result.pkl").exists(), submission.log(job).read_text()
    assert sorted(path.name for path in logs.glob("unasked-*")) == [f"unasked-{job}-0"]
