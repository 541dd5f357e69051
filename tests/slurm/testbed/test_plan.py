import socket
from dataclasses import replace

import pytest

from slurm.errors import RequestError
from slurm.testbed.configuration import cgroup_conf, gres_conf, slurm_conf, slurmdbd_conf
from slurm.testbed.packages import Packages
from slurm.testbed.plan import Plan, free_ports

PLAN = Plan(
    folder="/tmp/bed",
    nodes=2,
    gpus=2,
    cpus=8,
    accounting=False,
    packages=None,
    grace_seconds=20,
    max_array_size=1001,
    max_jobs=10_000,
    short_minutes=5,
    first_job_id=4000,
    ports=(17000, 17001, 17002, 17003),
)


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith(("Node", "Partition")))


def test_everything_a_testbed_touches_is_its_own():
    other = replace(PLAN, folder="/tmp/other", ports=(18000, 18001, 18002, 18003))
    one, two = (settings(slurm_conf(plan, Packages(None))) for plan in (PLAN, other))
    for key in ("ClusterName", "SlurmctldPort", "AuthInfo", "StateSaveLocation", "SlurmdSpoolDir", "SlurmctldPidFile"):
        assert one[key] != two[key]
    for key, value in one.items():
        if value.startswith("/") and key != "MailProg":
            assert value.startswith("/tmp/bed/"), key


def test_nodes_have_their_ports_and_gpus():
    lines = [line for line in slurm_conf(PLAN, Packages(None)).splitlines() if line.startswith("NodeName")]
    assert [line.split()[2] for line in lines] == ["Port=17002", "Port=17003"]
    assert all(line.endswith("Gres=gpu:2") for line in lines)
    assert gres_conf(PLAN) == "Name=gpu File=/tmp/bed/dev/nvidia0,/tmp/bed/dev/nvidia1 Flags=nvidia_gpu_env\n"
    without = replace(PLAN, gpus=0)
    assert "gpu" not in slurm_conf(without, Packages(None)) + gres_conf(without)


def test_accounting_is_asked_for_only_when_there_is_some():
    assert settings(slurm_conf(PLAN, Packages(None)))["AccountingStorageType"] == "accounting_storage/none"
    accounted = replace(PLAN, accounting=True)
    asked = settings(slurm_conf(accounted, Packages(None)))
    assert asked["AccountingStoragePort"] == settings(slurmdbd_conf(accounted, Packages(None)))["DbdPort"] == "17001"


def test_cgroup_v2_gets_the_plugin_that_starts_without_systemd(tmp_path):
    assert cgroup_conf("22.05.8", tmp_path) == ""
    (tmp_path / "cgroup.controllers").touch()
    assert cgroup_conf("22.05.8", tmp_path) == cgroup_conf("23.11.4", tmp_path) == "CgroupPlugin=cgroup/v1\n"
    assert cgroup_conf("24.11.5", tmp_path) == "CgroupPlugin=disabled\n"


def test_a_plan_survives_its_file_and_a_torn_one_is_none(tmp_path):
    plan = replace(PLAN, folder=str(tmp_path))
    assert Plan.load(tmp_path) is None
    plan.save()
    assert Plan.load(tmp_path) == plan
    file = tmp_path / "testbed.json"
    file.write_bytes(file.read_bytes()[:-20])
    assert Plan.load(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"folder": "/tmp/a b"}, "folder name"),
        ({"folder": "/tmp/%n"}, "folder name"),
        ({"folder": "/tmp/x\nSlurmUser=me"}, "folder name"),
        ({"folder": "/tmp/" + "x" * 80}, "too long"),
        ({"nodes": 0}, "nodes is 0"),
        ({"gpus": -1}, "gpus is -1"),
        ({"max_array_size": 1}, "max_array_size is 1"),
    ],
)
def test_what_slurm_could_not_work_with_is_refused(change, told):
    with pytest.raises(RequestError, match=told) as failure:
        replace(PLAN, **change).check()
    assert "\n" not in str(failure.value)


def test_free_ports_are_free_and_differ():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
