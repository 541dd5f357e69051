import os
from pathlib import Path

import pytest

from slurm.errors import RequestError
from slurm.testbed.packages import ACCOUNTING_PACKAGE_OF, PACKAGE_OF, Packages


def unpacked(root: Path, *names: str) -> Packages:
    """A folder that looks like unpacked packages with the programs ``names`` in it."""
    (root / "usr/sbin").mkdir(parents=True, exist_ok=True)
    for name in names:
        path = root / "usr/sbin" / name
        path.write_text("#!/bin/sh\necho slurm-wlm 22.05.8\n")
        path.chmod(0o755)
    plugins = root / "usr/lib/some-linux-gnu/slurm-wlm"
    plugins.mkdir(parents=True)
    (plugins / "auth_munge.so").touch()
    (plugins.parent / "libmunge.so.2").touch()
    return Packages(root)


def test_nothing_installed_names_the_one_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("slurm.testbed.packages.shutil.which", lambda name, path: None)
    with pytest.raises(RequestError) as failure:
        Packages(None).check(accounting=False)
    assert failure.value.mend == "apt-get install --yes munge slurmctld slurmd slurm-client"
    with pytest.raises(RequestError) as failure:
        Packages(None).check(accounting=True)
    assert {"slurmdbd", "mariadb-server-core"} <= set(failure.value.mend.split())
    assert "\n" not in str(failure.value)


def test_debian_names_are_found_beside_plain_ones(tmp_path):
    packages = unpacked(tmp_path, *(f"{name}-wlm" for name in PACKAGE_OF))
    packages.check(accounting=False)
    assert packages.binary("slurmd") == tmp_path / "usr/sbin/slurmd-wlm"
    assert packages.version() == "22.05.8"


def test_what_is_missing_from_a_folder_is_named_with_the_folder(tmp_path):
    packages = unpacked(tmp_path, *PACKAGE_OF)
    packages.check(accounting=False)
    with pytest.raises(RequestError) as failure:
        packages.check(accounting=True)
    assert str(tmp_path) in str(failure.value)
    assert all(name in str(failure.value) for name in ACCOUNTING_PACKAGE_OF if name != "sacctmgr")


def test_a_program_that_does_not_run_says_why(tmp_path):
    packages = unpacked(tmp_path, *PACKAGE_OF)
    (tmp_path / "usr/sbin/slurmctld").write_text("#!/bin/sh\necho 'libmunge.so.2: not found' >&2; exit 127\n")
    with pytest.raises(RequestError, match=r"libmunge\.so\.2: not found"):
        packages.version()


def test_unpacked_programs_and_libraries_come_before_what_the_environment_had(tmp_path, monkeypatch):
    packages = unpacked(tmp_path, *PACKAGE_OF)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    found = packages.environment()
    assert found["PATH"].split(os.pathsep)[0] == str(tmp_path / "usr/bin")
    libraries = tmp_path / "usr/lib/some-linux-gnu"
    assert found["LD_LIBRARY_PATH"].split(os.pathsep) == [str(libraries / "slurm-wlm"), str(libraries), "/opt/lib"]
    assert Packages(None).environment() == {}
