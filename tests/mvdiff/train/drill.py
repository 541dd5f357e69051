"""A process that forks training ranks on request, some of which are to die.

One request a line on stdin, one answer a line on stdout: importing torch once serves every drill.
"""

import gc
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_hexdigest

from mvdiff.errors import InputError
from mvdiff.events import EventLog
from mvdiff.model.batch import TrainingBatch
from mvdiff.model.settings import ModelSettings
from mvdiff.train.feed import Feed
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources
from mvdiff.train.trainer import Folders, train
from mvdiff.train.world import World


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_rank(order: dict[str, Any], rank: int, port: int) -> dict[str, Any]:
    looks = boundaries = -1
    root = Path(order["root"])
    fed: dict[int, list[Any]] = {}
    if order.get("record"):
        record_what_is_fed(fed)

    def should_stop() -> bool:
        nonlocal looks
        looks += 1
        if [rank, looks] == order.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        return [rank, looks] == order.get("stop")

    def at_boundary(_name: str) -> None:
        nonlocal boundaries
        boundaries += 1
        if boundaries == order.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        end = train(
            TrainSettings.read(order["settings"]),
            ModelSettings.read(order["model"]),
            Sources.open(Path(order["data"]), *(order[key] and Path(order[key]) for key in ("held_out", "prior"))),
            Folders(root / "checkpoints", root / "validation", None),
            EventLog(root / "events" / f"rank-{rank}.jsonl"),
            lambda line: None,
            World(rank, order["world_size"], rank, "127.0.0.1", port),
            should_stop,
            on_boundary=at_boundary,
        )
    except InputError as error:
        return {"error": str(error)}
    return {"end": end, "looks": looks, "fed": fed}


def record_what_is_fed(fed: dict[int, list[Any]]) -> None:
    """Note of every sample that this process takes: step, id, and a hash of all its tensors, noise included."""
    take = Feed.take

    def recorded(self: Feed, step: int) -> list[TrainingBatch]:
        batches = take(self, step)
        for batch in batches:
            tensors = [batch.views, batch.reference, batch.cameras, batch.timestep, batch.dropped]
            tensors += [batch.noise[name] for name in sorted(batch.noise)]
            for k, sample_id in enumerate(batch.sample_ids):
                content = b"".join(tensor[k].numpy().tobytes() for tensor in tensors)
                fed.setdefault(step, []).append([sample_id, xxh3_64_hexdigest(content)])
        return batches

    Feed.take = recorded  # type: ignore[method-assign]


def fork_rank(order: dict[str, Any], rank: int, port: int, answer: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(2, 1)
        answer.write_text(json.dumps(train_rank(order, rank, port)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    # each rank would look through all of torch for garbage, and copy the pages that this touches
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        root = Path(order["root"])
        root.mkdir(exist_ok=True)
        port = free_port()
        answers = [root / f"answer-{rank}.json" for rank in range(order["world_size"])]
        for answer in answers:
            answer.unlink(missing_ok=True)
        children = [fork_rank(order, rank, port, answer) for rank, answer in enumerate(answers)]
        told = []
        for child, answer in zip(children, answers, strict=True):
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            told.append(json.loads(answer.read_text()) if status == 0 else {"status": status})
        print(json.dumps(told), flush=True)


main()
