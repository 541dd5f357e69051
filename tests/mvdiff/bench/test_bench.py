"""Measurements: FLOPs as they are by hand, shares that add up, figures that follow from one another."""

import json

import pytest
import torch
from torch import nn

from jobs.cli import main
from mvdiff.bench.flops import counted
from mvdiff.bench.stages import Stages

SMALL = ["model=tiny", "train=default", "bench.repeats=1", "bench.warmup=1", "bench.rows=8"]


def test_flops_of_a_known_layer():
    layer = nn.Linear(30, 50)
    assert counted(lambda: layer(torch.zeros(7, 30))) * 1e12 == pytest.approx(2 * 7 * 30 * 50)


def test_shares_of_stages_sum_to_one():
    stages = Stages(torch.device("cpu"))
    for name in ("one", "other", "one"):
        with stages.stage(name):
            sum(range(1000))
    assert list(stages.shares()) == ["one", "other"] and sum(stages.shares().values()) == pytest.approx(1)


def test_a_training_measurement_is_consistent(capsys):
    assert main(["bench", "train", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    step = found["step"]
    assert sum(step["shares"].values()) == pytest.approx(1)
    assert step["samples_per_s"] * step["seconds"] == pytest.approx(found["micro_batch"])
    assert step["mfu"] == pytest.approx(
        step["samples_per_s"] * step["tflop_per_sample"] / found["matrix_product_tflop_per_s"]
    )
    assert 0 < found["unet"]["tflop_per_sample"] < step["tflop_per_sample"]


def test_an_unknown_question_is_refused(capsys):
    assert main(["bench", "weather"]) == 2
    assert "mvdiff bench train" in capsys.readouterr().err


def test_questions_about_this_process_are_not_sent_to_a_cluster(capsys):
    assert main(["bench", "train", *SMALL, "cluster=slurm"]) == 2
    assert "leave cluster= away" in capsys.readouterr().err


def test_scaling_here_is_of_spawned_processes(capfd):
    asked = ["bench", "scaling", *SMALL, "generate.steps=1", "generate.slice=8", "bench.parts=[generation]"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])["generation"]
    assert found["times"] == pytest.approx(found["of_2"]["samples_per_s"] / found["of_1"]["samples_per_s"])


def test_unknown_parts_are_refused(capsys):
    assert main(["bench", "scaling", *SMALL, "bench.parts=[weather]"]) == 2
    assert "training,generation" in capsys.readouterr().err
