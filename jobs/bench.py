"""`mvdiff bench QUESTION`: how fast this machine trains, generates, feeds, saves and scales."""

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from jobs.compose import composed, refuse_wrong, settings
from jobs.job import JobFailed
from mvdiff.bench.settings import QUESTIONS, BenchSettings
from mvdiff.errors import InputError
from mvdiff.generate.settings import GenerateSettings
from mvdiff.model.settings import RANDOM, ModelSettings
from mvdiff.train.settings import TrainSettings
from slurm.cluster import Cluster

_ALONE = "127.0.0.1"


def bench(words: Sequence[str], as_json: bool) -> int:
    """Answer the question that ``words`` begin with, under the configuration of the others; returns the exit status.

    Raises:
        InputError: the request was wrong.
    """
    question, *overrides = words or [""]
    if question not in QUESTIONS:
        raise InputError(f"{question or 'no question'!r}", f"say mvdiff bench {'|'.join(QUESTIONS)}")
    config = composed("bench", [*overrides, f"model.pretrained={RANDOM}"])
    if config.model.new is not None:
        config.model.pretrained = None
    elif config.model.mapping is None:
        config.model.mapping = "order"
    for key in ("sampler", "steps", "guidance"):
        if config.generate[key] is None:
            config.generate[key] = config.model[key]
    refuse_wrong(config)
    import torch

    try:
        figures = _answer(question, config, words)
    except torch.OutOfMemoryError as error:
        raise JobFailed(f"this GPU has too little memory for it: {str(error).splitlines()[0]}") from None
    from mvdiff.bench.report import table

    print(json.dumps({"job": "bench", "question": question, "state": "done", **figures}) if as_json else table(figures))
    return 0


def _answer(question: str, config: DictConfig, words: Sequence[str]) -> dict[str, object]:
    bench = settings(BenchSettings, config.bench, "bench")
    model = settings(ModelSettings, config.model, "model")
    training = settings(TrainSettings, config.train, "train")
    generate = settings(GenerateSettings, config.generate, "generate")
    cluster = settings(Cluster, config.cluster, "cluster")
    tell = partial(print, file=sys.stderr, flush=True)
    if cluster.kind != "here":
        if question != "scaling":
            raise InputError(
                f"mvdiff bench {question} measures the process that is called",
                "leave cluster= away, or start it by srun on the node that you mean",
            )
        from jobs.scaling import scaling as sent

        return sent(config, cluster, words, tell)
    with tempfile.TemporaryDirectory(prefix="mvdiff-bench-") as name:
        folder = Path(name)
        match question:
            case "train":
                from mvdiff.bench import training as trained
                from mvdiff.train.world import World

                return trained.measure(training, model, bench, folder, World(0, 1, 0, _ALONE, 0), tell)
            case "data":
                from mvdiff.bench import data

                return data.measure(training, model, bench, folder)
            case "checkpoint":
                from mvdiff.bench import checkpoint

                return checkpoint.measure(training, model, bench, folder)
            case "scaling":
                from mvdiff.bench import scaling

                return scaling.measure(scaling.Subject(training, generate, model, bench), folder, tell)
        from mvdiff.bench import generation

        return generation.measure(generate, model, bench, folder, tell)
