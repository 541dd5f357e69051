"""What figures of canaries mean: figures in, findings out."""

import pytest

from slurm.canary import array, clock, comeback, commands, environment, filesystem, gpu, network, preemption, warning


def levels(findings):
    return [finding.level for finding in findings]


def ranks(*figures):
    return [{"rank": k, "node": f"n{k + 1}", **given} for k, given in enumerate(figures)]


@pytest.mark.parametrize(
    ("heard", "level", "says"),
    [
        ([{"SIGUSR2": 930.0}, {"SIGUSR2": 931.0}], "ok", "69 s before the end"),
        ([{"SIGUSR2": 930.0}, {"SIGTERM": 1000.0}], "change", "rank 1 on n2"),
        ([{"SIGUSR2": 930.0}], "change", "rank 1"),
        ([{"SIGUSR2": 980.0}, {"SIGUSR2": 980.0}], "change", "signal_late_s=25"),
    ],
)
def test_warning(heard, level, says):
    (found,) = warning.judge(ranks(*({"heard": one, "ends": 1000.0} for one in heard)), 40, 2, 5)
    assert found.level == level and says in str(found)


def test_comeback():
    first, second = {"restart": 0, "at": 10.0, "node": "n1"}, {"restart": 1, "at": 130.0, "node": "n2"}
    assert "after 120 s" in str(comeback.judge([first, second], "")[0])
    (found,) = comeback.judge([first], "Requested operation is presently disabled")
    assert found.level == "change" and "presently disabled" in found.what
    assert levels(comeback.judge([first, {**second, "at": 5000.0}], "")) == ["note"]


def test_array():
    told = [{"worker": k, "node": "n1"} for k in range(3)]
    assert levels(array.judge(told, 3, 1001, None)) == ["ok", "ok"]
    assert levels(array.judge(told[:2], 3, 1001, None)) == ["change"]
    assert levels(array.judge(told, 3, 1001, "QOSMaxSubmitJobPerUserLimit")) == ["ok", "note"]


def test_clock():
    assert levels(clock.judge(ranks(*({"ahead_s": s, "round_trip_s": 1e-4} for s in (0.0, 0.01))))) == ["ok"]
    (found,) = clock.judge(ranks(*({"ahead_s": s, "round_trip_s": 1e-4} for s in (0.0, -7.0))))
    assert found.level == "change" and "n2 is 7.0 s behind" in found.what


def test_commands():
    good = {name: {"wrong": None, "seconds": 0.1} for name in ("squeue", "scontrol", "sacct")}
    lacks = {**good, "scontrol": {"wrong": "scontrol is not there", "seconds": 0.1}}
    assert levels(commands.judge(good, ranks(good, good))) == ["ok", "ok", "ok"]
    assert levels(commands.judge(good, ranks(good, lacks))) == ["ok", "change", "ok"]
    assert levels(commands.judge({**good, "sacct": lacks["scontrol"]}, ranks(good))) == ["ok", "ok", "note"]


def test_environment():
    own = {"interpreter": "/v/python", "python": "3.11.7", "packages": {"torch": "2.9"}, "import_s": 2.0}
    assert levels(environment.judge(own, ranks(own, own), "torch")) == ["ok", "ok"]
    other = {**own, "packages": {"torch": "2.8"}}
    found = environment.judge(own, ranks(own, other), "torch")
    assert found[0].level == "change" and "torch 2.8 instead of 2.9" in found[0].what


def test_gpu():
    good = {"cards": [["H100", "81559", "550"]], "wrong": None, "allotted": "0", "cuda": 1}
    assert levels(gpu.judge(ranks(good, good), 1, 1)) == ["ok"]
    assert levels(gpu.judge(ranks(good, {**good, "cuda": 0}), 1, 1)) == ["change"]
    assert levels(gpu.judge(ranks(good, {**good, "cards": [["A100", "40960", "550"]]}), 1, 1)) == ["change"]


def test_filesystem():
    first = {"there": None, "rename_s": 0.0, "append_s": 0.0, "linked": True, "locked_out": False}
    other = {"there": None, "rename_s": 0.1, "append_s": 0.1, "linked": False, "locked_out": True}
    assert levels(filesystem.judge("runs", ranks(first, other), True)) == ["ok"] * 4
    bad = {**other, "rename_s": None, "append_s": 31.0, "linked": True, "locked_out": False}
    assert levels(filesystem.judge("runs", ranks(first, bad), True)) == ["change"] * 3 + ["note"]
    assert levels(filesystem.judge("x", ranks({"there": None}, {"there": "No such file"}), False)) == ["change"]


def test_network():
    good = {"backend": "nccl", "right": True, "mib": 1024, "bus_gb_s": 40.0, "interface": "ib0"}
    assert levels(network.judge(ranks(good, good), 2)) == ["ok"]
    assert levels(network.judge(ranks(good, {**good, "bus_gb_s": 0.1}), 2)) == ["change"]
    assert levels(network.judge(ranks(good, {**good, "right": False}), 2)) == ["change"]
    assert levels(network.judge(ranks(good, {"error": "no"}), 2)) == ["change"]


def test_preemption():
    promise = {"kind": "preempt/partition_prio", "mode": "REQUEUE", "grace_s": 60, "warns": True}
    assert levels(preemption.judge_promise(promise)) == ["ok"]
    assert levels(preemption.judge_promise({**promise, "warns": False})) == ["change"]
    first, back = {"restart": 0, "heard": {"SIGUSR2": 10.0}, "last": 50.0}, {"restart": 1, "at": 60.0}
    assert levels(preemption.judge([first, back])) == ["ok"]
    assert levels(preemption.judge([{**first, "heard": {}}, back])) == ["change"]
    assert levels(preemption.judge([first])) == ["change"]
