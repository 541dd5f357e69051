"""Accounting for a testbed: a private MariaDB, slurmdbd on it, and the account that jobs run under."""

import os
import subprocess
from pathlib import Path

from slurm.errors import RequestError
from slurm.testbed.client import Client
from slurm.testbed.configuration import USER_ACCOUNT
from slurm.testbed.daemons import Daemons, telling_line
from slurm.testbed.plan import Plan


def database_socket(plan: Plan) -> Path:
    """Where the testbed's MariaDB listens; it has no network port."""
    return plan.path / "mariadb.socket"


def start(daemons: Daemons) -> None:
    """Make the database, start MariaDB and slurmdbd, and enter cluster, account and user.

    Raises:
        RequestError: when one of them fails; the line tells why.
    """
    plan = daemons.plan
    data = plan.path / "database"
    _create_database(daemons, data)
    server = [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={data}",
        f"--tmpdir={plan.path}",
        f"--socket={database_socket(plan)}",
        f"--pid-file={plan.path / 'mariadb.pid'}",
        "--skip-networking",
        *_installation(daemons),
        # A test database: small, and not worth a disk's wait for each commit.
        "--innodb-buffer-pool-size=32M",
        "--innodb-log-file-size=8M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
    ]
    daemons.start_database(server, database_socket(plan))
    daemons.start_slurmdbd(database_socket(plan))
    _enter_user(daemons.client)


def _create_database(daemons: Daemons, data: Path) -> None:
    packages, plan = daemons.packages, daemons.plan
    data.mkdir(mode=0o700)
    base = [f"--basedir={packages.root / 'usr'}"] if packages.root else []
    made = subprocess.run(
        [
            packages.binary("mariadb-install-db"),
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--tmpdir={plan.path}",
            "--auth-root-authentication-method=normal",
            "--skip-name-resolve",
            "--skip-test-db",
            *base,
        ],
        cwd=plan.path,
        env={**os.environ, **packages.environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if made.returncode != 0:
        log = plan.path / "log/mariadb-install-db.out"
        log.write_text(made.stdout + made.stderr, encoding="utf-8")
        raise RequestError(f"MariaDB's tables cannot be made ({telling_line(made.stderr)})", f"read {log}")


def _installation(daemons: Daemons) -> list[str]:
    root = daemons.packages.root
    if root is None:
        return []
    return [f"--basedir={root / 'usr'}", f"--lc-messages-dir={root / 'usr/share/mysql'}"]


def _enter_user(client: Client) -> None:
    for entry in (
        ("add", "cluster", client.plan.cluster_name),
        ("add", "account", USER_ACCOUNT, f"cluster={client.plan.cluster_name}"),
        ("add", "user", "root", f"account={USER_ACCOUNT}", f"cluster={client.plan.cluster_name}"),
        ("modify", "user", "root", "set", f"defaultaccount={USER_ACCOUNT}"),
    ):
        answer = client.run("sacctmgr", "--immediate", *entry)
        if answer.returncode != 0:
            raise RequestError(
                f"sacctmgr could not {' '.join(entry)} ({telling_line(answer.stderr + answer.stdout)})",
                f"read {client.plan.path / 'log/slurmdbd.log'}",
            )
