import os
import signal
import subprocess

from slurm.testbed.daemons import telling_line
from slurm.testbed.processes import kill_until_gone, processes, with_descendants


def marked(value: str) -> list:
    return [process for process in processes() if process.environment.get("TESTBED_DRILL") == value]


def test_a_marked_process_dies_with_what_it_left_behind():
    value = f"family {os.getpid()}"
    # The grandchild has a session of its own and an empty environment: only its descent gives it away.
    script = "setsid env -i sh -c 'echo born; exec sleep 300' & wait"
    with subprocess.Popen(
        ["sh", "-c", script], env=os.environ | {"TESTBED_DRILL": value}, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "born\n"
        family = with_descendants(marked(value), processes())
        assert len(family) >= 2
        left = kill_until_gone(lambda: with_descendants(marked(value), processes()), seconds=10)
        assert not left
        assert parent.wait(timeout=10) == -signal.SIGKILL
        assert all(process.gone(seconds=10) for process in family)


def test_what_does_not_die_is_returned_when_time_is_up():
    with subprocess.Popen(["sleep", "300"], env=os.environ | {"TESTBED_DRILL": f"stays {os.getpid()}"}) as child:
        (process,) = [found for found in processes() if found.pid == child.pid]
        assert kill_until_gone(lambda: [process], seconds=0) == [process]
        child.kill()


def test_a_pid_given_to_another_process_is_not_signalled():
    with subprocess.Popen(["sleep", "300"]) as child:
        (process,) = [found for found in processes() if found.pid == child.pid]
        earlier = type(process)(**{**vars(process), "started": process.started - 1})
        assert not earlier.alive()
        earlier.signal(signal.SIGKILL)
        assert process.alive()
        child.kill()


def test_the_telling_line_of_a_log_is_its_last_fatal_error():
    log = "[1] error: no state file\n[2] fatal: Address already in use\n[3] error: gone\n[4] bye\n"
    assert telling_line(log) == "[2] fatal: Address already in use"
    assert telling_line("[1] error: no state file\n[2] bye\n") == "[1] error: no state file"
    assert telling_line("[1] hello\n\n") == "[1] hello"
    assert telling_line("") == "nothing in its log"
