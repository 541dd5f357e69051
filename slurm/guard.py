"""What a queue starts in place of submitit: `python -m slurm.guard LOGS`, which unpickles nothing that others could
have put there.

A pickle is code. Whoever can write to its folder, or to one around it, runs code as the submitter, on every node.
"""

import sys
from pathlib import Path

from submitit.core.submission import submitit_main

from slurm.errors import RequestError
from slurm.place import here
from slurm.scratch import settle
from slurm.trust import refuse_foreign
from slurm.words import GAVE_UP, Words

AROUND = 3
"""So many folders around that of the pickles are the submission's: the job's own, that of the run's jobs, the run's."""


def refuse_foreign_calls(logs: Path) -> None:
    """``refuse_foreign`` for the folder of a submission's pickles, those around it, and the pickles in it.

    Raises:
        RequestError: which of them is in others' hands.
    """
    refuse_foreign(logs, AROUND)
    for pickle in logs.glob("*.pkl"):
        refuse_foreign(pickle)


def main(logs: Path) -> None:
    """Run this process's call from ``logs``; one that others could have written ends the job, which stays ended."""
    place = here()
    try:
        refuse_foreign_calls(logs)
    except RequestError as error:
        print(f"mvdiff: not started: {error}", file=sys.stderr, flush=True)
        Words(logs, place.job_id, place.restart).say(GAVE_UP, str(error))
        sys.exit(1)
    # submitit refuses to write its result over what a killed start left half written
    (logs / f"{place.job_id}_{place.rank}_result.pkl.save_tmp").unlink(missing_ok=True)
    settle(place)
    submitit_main()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
