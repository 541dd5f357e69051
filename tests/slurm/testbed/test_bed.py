import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.errors import RequestError
from slurm.testbed import Testbed, default_folder

ROOT = Path(__file__).parents[3]


def test_nothing_is_down():
    bed = Testbed(Path("/tmp/mvdiff-no-such-testbed"))
    assert bed.status().state == "down"
    assert not bed.down()
    for ask in (bed.environment, bed.variables, lambda: bed.crash_node("n1"), bed.stop_controller):
        with pytest.raises(RequestError, match="no testbed is up"):
            ask()


def test_a_folder_that_is_not_a_testbeds_is_left_alone(tmp_path):
    precious = tmp_path / "thesis.tex"
    precious.write_text("chapter one")
    tmp_path.chmod(0o700)
    with pytest.raises(RequestError, match="not a testbed's"):
        Testbed(tmp_path).down()
    assert precious.read_text() == "chapter one"


def test_a_folder_others_can_enter_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(RequestError, match="not this user's alone"):
        Testbed(tmp_path).down()


def test_a_link_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(RequestError, match="cannot open"):
        Testbed(tmp_path / "link").down()


def test_only_root_brings_a_testbed_up(tmp_path, monkeypatch):
    monkeypatch.setattr("slurm.testbed.bed.os.getuid", lambda: 1000)
    assert default_folder() == Path("/tmp/mvdiff-testbed-1000")
    with pytest.raises(RequestError, match="as root only"):
        Testbed(tmp_path / "bed").up()
    assert not (tmp_path / "bed").exists()


def test_a_jobs_own_testbed_is_not_taken_down_from_inside(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("SLURM_CONF", f"{tmp_path}/etc/slurm.conf")
    with pytest.raises(RequestError, match="cannot take it down"):
        Testbed(tmp_path).down()


def test_the_testbed_loads_without_the_other_rooms():
    script = "import sys, slurm.testbed; print([m for m in ('torch', 'numpy', 'mvdiff', 'jobs') if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"
