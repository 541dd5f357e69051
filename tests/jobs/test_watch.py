"""Staying with many jobs."""

from jobs.watch import FOLLOWED, watch
from slurm.submission import Submission


def test_of_many_jobs_the_first_to_start_are_followed(tmp_path, capsys):
    many = Submission("local", "mice", [str(10**9 + k) for k in range(FOLLOWED + 5)], str(tmp_path))
    for index in range(2, FOLLOWED + 4):
        many.log(many.job_ids[index]).write_text(f"submitit says\nline of {index}\n")
    assert watch("generate", many, lambda submission, alive: submission) is many
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"[generate {index}] line of {index}" for index in range(2, FOLLOWED + 2)]
