"""Staying with many jobs."""

from jobs import watch as watching
from jobs.watch import FOLLOWED, watch
from slurm.errors import RequestError
from slurm.submission import State, Submission


def test_of_many_jobs_the_first_to_start_are_followed(tmp_path, capsys):
    many = Submission("local", "mice", [str(10**9 + k) for k in range(FOLLOWED + 5)], str(tmp_path))
    for index in range(2, FOLLOWED + 4):
        many.log(many.job_ids[index]).write_text(f"submitit says\nline of {index}\n")
    assert watch("generate", many, lambda submission, alive: submission).submission is many
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"[generate {index}] line of {index}" for index in range(2, FOLLOWED + 2)]


def test_a_queue_that_cannot_tell_is_waited_for(tmp_path, capsys, monkeypatch):
    """An administrator rewrites slurm.conf, which every command of SLURM reads."""
    half_written = "squeue --noheader failed: squeue: fatal: Unable to process configuration file"
    answers = iter([RequestError(half_written, "..."), RequestError(half_written, "..."), {"7": State("COMPLETED")}])

    def states(submission: Submission) -> dict[str, State]:
        answer = next(answers)
        if isinstance(answer, RequestError):
            raise answer
        return answer

    monkeypatch.setattr(watching, "states", states)
    monkeypatch.setitem(watching.POLL_S, "slurm", 0)
    one = Submission("slurm", "mice", ["7"], str(tmp_path))
    ended = watch("train", one, lambda submission, alive: submission)
    assert (ended.submission, ended.words) == (one, {"COMPLETED"})
    assert capsys.readouterr().err == ("[train] squeue: fatal: Unable to process configuration file: waiting for it\n")
