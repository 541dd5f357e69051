"""The files a testbed's daemons read."""

import os
import socket
import stat
from pathlib import Path

from slurm.errors import RequestError
from slurm.testbed.packages import Packages
from slurm.testbed.plan import Plan

USER_ACCOUNT = "lab"
"""The accounting account jobs run under."""


def slurm_conf(plan: Plan, packages: Packages) -> str:
    """The text of slurm.conf: what a cluster does to jobs, sped up where SLURM's usual waits are minutes."""
    folder = plan.folder
    host = socket.gethostname()
    settings = {
        "ClusterName": plan.cluster_name,
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": plan.controller_port,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # A requeued job may start again once its old credential has expired: 120 s unless told otherwise.
        "AuthInfo": f"socket={munge_socket(plan)},cred_expire=5",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "StateSaveLocation": f"{folder}/state",
        "SlurmctldPidFile": f"{folder}/slurmctld.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmctldDebug": "info",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmdPidFile": f"{folder}/slurmd-%n.pid",
        "SlurmdLogFile": f"{folder}/log/slurmd-%n.log",
        "SlurmdDebug": "info",
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=1",
        "PriorityType": "priority/basic",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        # Without the first the signal a job asked for is not sent when it is preempted.
        "SlurmctldParameters": "preempt_send_user_signal",
        "JobRequeue": 1,
        "FirstJobId": plan.first_job_id,
        "MaxArraySize": plan.max_array_size,
        "MaxJobCount": plan.max_jobs,
        "EnforcePartLimits": "ALL",
        "MinJobAge": 600,
        "KillWait": 3,
        "SlurmdTimeout": 10,
        "MessageTimeout": 30,
        "ReturnToService": 2,
        "PropagateResourceLimits": "NONE",
        "AccountingStorageType": "accounting_storage/none",
    }
    if plan.accounting:
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": plan.database_port,
            "AccountingStoragePass": str(munge_socket(plan)),
            "AccountingStorageTRES": "gres/gpu",
            "AccountingStorageEnforce": "limits",
        }
    if packages.plugin_folder is not None:
        settings["PluginDir"] = str(packages.plugin_folder)
    gpus = ""
    if plan.gpus:
        settings["GresTypes"] = "gpu"
        gpus = f" Gres=gpu:{plan.gpus}"
    lines = [f"{key}={value}" for key, value in settings.items()]
    lines += [
        f"NodeName={name} NodeAddr=127.0.0.1 Port={plan.node_port(name)} CPUs={plan.cpus} RealMemory=262144{gpus}"
        for name in plan.node_names
    ]
    low = f"Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime={plan.grace_seconds} State=UP"
    lines += [
        f"PartitionName=low {low} Default=YES MaxTime=UNLIMITED DefaultTime=60",
        f"PartitionName=short {low} MaxTime={plan.short_minutes}",
        "PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP MaxTime=UNLIMITED DefaultTime=60",
    ]
    return "\n".join(lines) + "\n"


def gres_conf(plan: Plan) -> str:
    """The text of gres.conf: device files that exist for the scheduler only, shown as CUDA_VISIBLE_DEVICES."""
    if not plan.gpus:
        return ""
    devices = ",".join(str(device) for device in gpu_devices(plan))
    return f"Name=gpu File={devices} Flags=nvidia_gpu_env\n"


def cgroup_conf(version: str, hierarchy: Path = Path("/sys/fs/cgroup")) -> str:
    """The text of cgroup.conf for SLURM ``version``. A testbed uses no cgroups, yet slurmd loads a plugin.

    The one for cgroup v2 wants systemd or a delegated tree. The one for v1 starts on either when told by name; from
    24.05 on cgroups can be left alone altogether (cgroup.conf(5), CgroupPlugin).
    """
    if not (hierarchy / "cgroup.controllers").exists():
        return ""
    release = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return "CgroupPlugin=disabled\n" if release >= (24, 5) else "CgroupPlugin=cgroup/v1\n"


def slurmdbd_conf(plan: Plan, packages: Packages) -> str:
    """The text of slurmdbd.conf. The database is reached through its socket, which the environment names."""
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={munge_socket(plan)}",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": plan.database_port,
        "SlurmUser": "root",
        "PidFile": f"{plan.folder}/slurmdbd.pid",
        "LogFile": f"{plan.folder}/log/slurmdbd.log",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "root",
        "StorageLoc": "slurm_acct_db",
        "CommitDelay": 1,
    }
    if packages.plugin_folder is not None:
        settings["PluginDir"] = str(packages.plugin_folder)
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def slurm_conf_file(plan: Plan) -> Path:
    """Where slurm.conf lies: clients find their cluster by SLURM_CONF."""
    return plan.path / "etc/slurm.conf"


def munge_socket(plan: Plan) -> Path:
    """The socket of the testbed's own munged."""
    return plan.path / "munge.socket"


def gpu_devices(plan: Plan) -> list[Path]:
    """The device files that stand for GPUs; every node shows the same ones."""
    return [plan.path / f"dev/nvidia{k}" for k in range(plan.gpus)]


def write(plan: Plan, packages: Packages) -> None:
    """Write every file the daemons read, and make the folders and devices these name.

    Raises:
        RequestError: when the machine lets even root make no device files.
    """
    for name in ("bin", "etc", "log", "state", "spool", "dev"):
        (plan.path / name).mkdir(mode=0o700)
    for node in plan.node_names:
        (plan.path / "spool" / node).mkdir(mode=0o700)
    files = {
        "slurm.conf": slurm_conf(plan, packages),
        "gres.conf": gres_conf(plan),
        "cgroup.conf": cgroup_conf(packages.version()),
    }
    if plan.accounting:
        files["slurmdbd.conf"] = slurmdbd_conf(plan, packages)
    for name, text in files.items():
        path = plan.path / "etc" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
    key = plan.path / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    for device in gpu_devices(plan):
        try:
            os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError as error:
            raise RequestError(
                f"cannot make the device file {device}", "run where root has CAP_MKNOD, or say --gpus 0"
            ) from error
