"""`mvdiff doctor` as a person meets it."""

import json
import subprocess
import sys

import pytest
import torch

from jobs import doctor, groups, manual
from jobs.cli import main
from jobs.compose import known_keys
from mvdiff.errors import InputError
from mvdiff.model.gpu import card
from mvdiff.model.memory import Measurement

TINY = ["doctor", "model=tiny", "train=default", "generate.batch=1"]


def refused(capsys, *words):
    """The one line on standard error of a command that is refused with status 2."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def told(capsys, *words):
    """The object that ``--json`` prints."""
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_help_is_a_first_screen_with_every_key_of_its_file(capsys):
    assert main(["doctor", "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 60 and max(map(len, shown.splitlines())) <= 120
    for key in known_keys("doctor"):
        if "." not in key:
            assert f"  {key}=" in shown, key
    assert "--dry-run" not in shown and "--json" in shown


def test_help_and_refusals_import_no_torch():
    check = (
        "import sys; from jobs.cli import main;"
        "assert main(['doctor', '--help']) == 0 and main(['doctor', '--keys']) == 0;"
        "assert main(['doctor', 'card=none']) == 2; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["card=a100"], ["card=a100 is not one card", "a100-40gb", "a100-80gb"]),
        (["card=h100-80gib"], ["unknown", "h100-80gb"]),
        (["card=-3"], ["card=-3", "above 0"]),
        (["train.trainable=most"], ["train.trainable=most", "lora"]),
        (["model.size=100"], ["model.size=100", "64"]),
        (["model.prompt=token", "model.prompt_text='a [MOUSE]'"], ["text encoder", "1.3 GiB"]),
        (["train.batch=32", "cluster=slurm", "cluster.nodes=5"], ["5 ranks"]),
        (["batch=3"], ["'batch'", "generate.batch"]),
        (["--wait"], ["--wait", "mvdiff doctor --help"]),
    ],
)
def test_a_mistake_is_told_in_one_line(words, says, capsys):
    line = refused(capsys, "doctor", *words)
    for part in says:
        assert part in line, line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_measuring_without_a_gpu_is_refused(capsys):
    assert "measure=true needs a GPU" in refused(capsys, *TINY, "measure=true")


def test_the_published_model_needs_no_weights(capsys):
    found = told(capsys, "doctor", "train.micro_batch=2", "card=h100", "model.pretrained=/nowhere")
    assert found["parameters"]["UNet"] == 865_910_724
    training = found["training"]
    parts = ("weights_gib", "averages_gib", "moments_gib", "activations_and_gradients_gib")
    assert sum(training[part] for part in parts) == pytest.approx(training["peak_gib"], abs=0.01)
    assert 20 < training["peak_gib"] < 35
    assert 8 < found["card"]["largest_micro_batch"] < 32


def test_a_card_is_filled_as_far_as_it_goes(capsys):
    fits = told(capsys, *TINY, "card=80")["card"]
    assert fits["largest_micro_batch"] == fits["share"] == 8
    assert told(capsys, *TINY, "card=80", "cluster=slurm", "cluster.gpus_per_node=4")["card"]["share"] == 2
    assert told(capsys, *TINY, "card=0.75")["card"]["largest_micro_batch"] == 0
    peak = told(capsys, *TINY, "train.micro_batch=2")["training"]["peak_gib"]
    room = peak / 0.95 + 0.7 + 0.01
    assert 2 <= told(capsys, *TINY, f"card={room}")["card"]["largest_micro_batch"] < 8


def test_the_table_says_what_fits_and_what_to_do(capsys):
    assert main([*TINY, "card=80"]) == 0
    shown = capsys.readouterr().out
    for part in ("UNet", "trained of all these", "AdamW's moments", "peak", "training fits", "generation fits"):
        assert part in shown
    assert main([*TINY, "card=0.75"]) == 0
    shown = capsys.readouterr().out
    assert "does not fit, not even train.micro_batch=1" in shown and "lower generate.batch" in shown


def test_what_nobody_named_is_said_to_be_assumed(capsys):
    assert main([*TINY, "card=80"]) == 0
    assert "assumed" not in capsys.readouterr().out
    assert main(TINY) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "assumed" in line)
    assert line.startswith("card=h100-80gb was assumed: name yours with card=, of ") and "a100-40gb" in line


def test_a_measurement_stands_beside_the_estimate(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_refuse_no_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr("mvdiff.train.memory.measured_step", lambda *_, **__: Measurement(2**30, 2**31))
    monkeypatch.setattr("mvdiff.model.memory.measured_sampling", lambda *_: Measurement(2**28, 2**29))
    found = told(capsys, *TINY, "measure=true")
    training = found["measured"]["training"]
    assert training["peak_gib"] == 1 and training["reserved_gib"] == 2
    assert training["estimate_by_measurement"] == found["training"]["peak_gib"]
    assert main([*TINY, "measure=true"]) == 0
    assert "measured on Some GPU" in capsys.readouterr().out


def test_a_gpu_too_small_to_measure_on_fails_in_one_line(capsys, monkeypatch):
    def too_small(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")

    monkeypatch.setattr(doctor, "_refuse_no_gpu", lambda: None)
    monkeypatch.setattr("mvdiff.train.memory.measured_step", too_small)
    assert main([*TINY, "measure=true"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "Tried to allocate" in captured.err


def test_cards_are_found_by_the_beginning_of_their_name():
    assert card("H100").name == "h100-80gb"
    assert card(24).total == 24 * 2**30
    assert 0.9 * card("l40s").total < card("l40s").room < card("l40s").total
    with pytest.raises(InputError, match="above 0"):
        card("nan")


def test_keys_show_what_stands_below_a_key_with_comments_and_bases(tmp_path, monkeypatch):
    shown = manual.keys("train")
    line = next(line for line in shown.splitlines() if line.startswith("model.new.patch="))
    assert line.startswith("model.new.patch=32 ") and "Side in pixels of the square patch" in line
    assert "model.new=" not in shown
    assert "model.new=null" in manual.keys("doctor") and "model.new.patch" not in manual.keys("doctor")

    group = tmp_path / "model"
    group.mkdir()
    (group / "base-1.0.yaml").write_text(
        "name: base  # who\nnew:\n  patch: 32  # of a picture\n  widths: [1, 2]\nsize: 3\n"
    )
    (group / "other.yaml").write_text("defaults:\n  - base-1.0\n  - _self_\nname: other\nnew:\n  patch: 16\n")
    (group / "none.yaml").write_text("defaults:\n  - base-1.0\n  - _self_\nnew: null\n")
    monkeypatch.setattr(groups, "CONFIGS", tmp_path)
    assert manual._values("model", "base-1.0") == {
        "name": ("base", "who"), "new.patch": ("32", "of a picture"), "new.widths": ("[1, 2]", None),
        "size": ("3", None),
    }  # fmt: skip
    assert manual._values("model", "other")["new.patch"] == ("16", None)
    assert manual._values("model", "other")["new.widths"] == ("[1, 2]", None)
    assert [key for key in manual._values("model", "none") if key.startswith("new")] == ["new"]
