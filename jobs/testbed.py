"""`mvdiff testbed`: a SLURM of one machine, to try the cluster commands on and to test against."""

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mvdiff.errors import InputError
from slurm.testbed import Status, Testbed, default_folder

HELP = """\
mvdiff testbed: a SLURM of virtual nodes on this one machine, from Debian's packages

usage: mvdiff testbed up [--nodes N] [--gpus N] [--cpus N] [--accounting] [--packages FOLDER]
                        [--folder FOLDER] [--json]
       mvdiff testbed status | env | down [--folder FOLDER] [--json]
       mvdiff testbed crash NODE | recover NODE [--folder FOLDER]

up        start it: 4 nodes (n1 to n4) with 4 GPUs and 8 CPUs each that exist for the scheduler only. Jobs see
          GPUs by their numbers in CUDA_VISIBLE_DEVICES, so --nodes 1 --gpus 2 shares out a machine's own two.
          Needs root and
          apt-get install slurmctld slurmd slurm-client munge (with --accounting also slurmdbd mariadb-server),
          or the same packages unpacked by dpkg -x into the folder given by --packages. It has ports, sockets
          and folders of its own and disturbs no other SLURM of the machine.
          Partitions: low (the default) and short are preempted by high, and their jobs requeued.
status    what runs
env       shell lines that point SLURM's commands and mvdiff at it
crash     kill everything on one node, as a power cut would; recover brings the node back
down      end every process of it and remove its folder

examples
  mvdiff testbed up
  eval "$(mvdiff testbed env)"
  sinfo
  mvdiff train run=try data=runs/try/shards/train cluster=slurm cluster.nodes=2 --wait
  mvdiff testbed down

exit status
  0 done, 1 a daemon is missing, 2 the request was wrong (one line says what and how to mend it)"""


def testbed(words: Sequence[str]) -> int:
    """Run one testbed command; returns the exit status."""
    if not words or words[0] in ("-h", "--help") or "--help" in words:
        print(HELP)
        return 0
    parsed = _parsed(words)
    bed = Testbed(parsed.folder)
    match parsed.verb:
        case "up":
            status = bed.up(
                nodes=parsed.nodes, gpus=parsed.gpus, cpus=parsed.cpus, accounting=parsed.accounting,
                packages=parsed.packages,
            )  # fmt: skip
            return _show(status, parsed.json)
        case "status":
            return _show(bed.status(), parsed.json)
        case "env":
            for name, value in bed.variables().items():
                print(f"export {name}={shlex.quote(value)}")
        case "crash":
            bed.crash_node(_node(parsed))
            print(f"{parsed.node} has lost everything; mvdiff testbed recover {parsed.node} brings it back")
        case "recover":
            bed.recover_node(_node(parsed))
            print(f"{parsed.node} is back")
        case "down":
            was_up = bed.down()
            print("testbed is down; unset SLURM_CONF in shells that used it" if was_up else "there was no testbed")
    return 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mvdiff testbed", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("verb", choices=("up", "status", "env", "crash", "recover", "down"))
    parser.add_argument("node", nargs="?")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=8)
    parser.add_argument("--accounting", action="store_true")
    parser.add_argument("--json", action="store_true")
    try:
        parsed, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise InputError(str(error), "see mvdiff testbed --help") from None
    if unknown:
        raise InputError(f"unknown argument {unknown[0]!r}", "see mvdiff testbed --help")
    return parsed


def _node(parsed: argparse.Namespace) -> str:
    if parsed.node is None:
        raise InputError(f"testbed {parsed.verb} needs a node", f"mvdiff testbed {parsed.verb} n1")
    return parsed.node


def _show(status: Status, as_json: bool) -> int:
    if as_json:
        print(json.dumps(asdict(status)))
    else:
        print(f"testbed is {status.state}" + (f" (SLURM {status.version}, {status.folder})" if status.version else ""))
        if status.dead:
            print(f"  not running: {', '.join(status.dead)}")
        for node in status.nodes:
            print(f"  {node.name:<6}{node.state:<12}{node.reason}".rstrip())
        if status.state == "up":
            where = "" if Path(status.folder) == default_folder() else f" --folder {shlex.quote(status.folder)}"
            print(f'  eval "$(mvdiff testbed env{where})" points a shell at it')
    return 1 if status.state == "broken" else 0
