"""The files that describe sites: made, found from any folder, and changed without losing what people wrote."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs import canaries, sites
from jobs.compose import composed
from jobs.groups import find, user_folder
from mvdiff.errors import InputError
from slurm.canary.finding import CHANGE, OK, Finding

VALUES = {
    "partition": "gpu",
    "gpus_per_node": 4,
    "modules": ["cuda/12.4", "gcc"],
    "account": None,
    "mail_user": "a@b.org",
}
WRITTEN = """\
# our cluster, ask Ada
defaults: [slurm, _self_]
partition: gpu  # the new one
setup:
  # the old driver needs it
  - "ulimit -l unlimited"
time_min: 60
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """The user's own folder of sites."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "it's a home"))
    monkeypatch.chdir(tmp_path)
    return user_folder() / "cluster"


def test_a_site_is_found_from_any_folder_and_holds_what_was_said(mine, tmp_path, monkeypatch):
    sites.create(mine / "lab.yaml", VALUES, "made in a test")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = composed("train", ["run=x", "data=y", "cluster=lab"]).cluster
    assert {key: config[key] for key in VALUES} == VALUES
    assert config.kind == "slurm" and config.cpus_per_task == 8
    assert sites.own() == {"lab": mine / "lab.yaml"} and find("cluster", "lab") == mine / "lab.yaml"
    text = (mine / "lab.yaml").read_text()
    assert text.startswith("# made in a test\n")
    assert re.search(r"^partition: gpu +# --partition$", text, re.MULTILINE)
    assert "qos" not in text


def test_the_working_folder_s_sites_come_before_the_user_s(mine, tmp_path):
    sites.create(mine / "lab.yaml", {"partition": "far"}, "")
    sites.create(tmp_path / "configs/cluster/lab.yaml", {"partition": "near"}, "")
    assert composed("synth", ["run=x", "samples=1", "cluster=lab"]).cluster.partition == "near"


def test_what_people_wrote_stays_when_keys_change(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text(WRITTEN)
    sites.update(file, {"signal_late_s": 20, "time_min": 90}, {"signal": ["late", "in rank 1"], "gpus": ["none"]})
    text = file.read_text()
    for kept in ("# our cluster, ask Ada", "# the new one", "  # the old driver needs it", '"ulimit -l unlimited"'):
        assert kept in text
    assert yaml.safe_load(text) == yaml.safe_load(WRITTEN) | {"signal_late_s": 20, "time_min": 90}
    sites.update(file, {}, {"signal": ["in time"]})
    learned = [line for line in file.read_text().splitlines() if line.startswith("# learned")]
    assert learned == ["# learned: gpus: none", "# learned: signal: in time"]


def test_a_link_to_a_site_s_file_stays_one(tmp_path):
    (tmp_path / "shared.yaml").write_text(WRITTEN)
    (tmp_path / "lab.yaml").symlink_to("shared.yaml")
    sites.update(tmp_path / "lab.yaml", {"time_min": 5}, {})
    assert (tmp_path / "lab.yaml").is_symlink()
    assert yaml.safe_load((tmp_path / "shared.yaml").read_text())["time_min"] == 5


WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)


@given(
    st.dictionaries(
        st.sampled_from(["partition", "comment", "setup", "environment", "time_min", "exclusive", "memory_gb"]),
        st.one_of(
            WORDS, st.none(), st.booleans(), st.integers(0, 10**9), st.lists(WORDS), st.dictionaries(WORDS, WORDS)
        ),
    )
)
def test_values_are_read_as_they_were_written(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("site") / "lab.yaml"
    sites.create(file, values, "x")
    expected = {"defaults": ["slurm", "_self_"], **values}
    assert yaml.safe_load(file.read_text()) == expected
    sites.update(file, {"nodes": 2}, {"x": ["y"]})
    assert yaml.safe_load(file.read_text()) == expected | {"nodes": 2}


@pytest.mark.parametrize("name", ["slurm", "local", "here", "a/b", "", ".x", "a b", "a=b"])
def test_names_that_no_site_can_have(name):
    with pytest.raises(InputError):
        sites.refuse_name(name)


@pytest.mark.parametrize("text", ["a: [", "- a\n", ""])
def test_a_file_that_holds_no_keys_is_told(tmp_path, text):
    (tmp_path / "lab.yaml").write_text(text)
    with pytest.raises(InputError, match=r"lab\.yaml"):
        sites.update(tmp_path / "lab.yaml", {"nodes": 1}, {})
    assert (tmp_path / "lab.yaml").read_text() == text


def test_what_the_doctor_found_is_written_where_it_was_tried(mine):
    sites.create(mine / "lab.yaml", VALUES, "")
    found = [
        Finding("signal", CHANGE, "late", "cluster.signal_late_s=9", {"signal_late_s": 9}),
        Finding("gpus", OK, "4 of them", learned={"card": 79.6}),
    ]
    untouched = (mine / "lab.yaml").read_text()
    assert "nothing written" in canaries.written("lab", ["cluster=lab", "cluster.partition=low"], found)
    assert "nothing written" in canaries.written("slurm", ["cluster=slurm"], found)
    assert (mine / "lab.yaml").read_text() == untouched
    said = canaries.written("lab", ["cluster=lab"], found)
    assert "2 findings, signal_late_s: 9, card: 79.6" in said
    assert composed("canaries", ["cluster=lab"]).cluster.card == 79.6
    assert "signal: late: cluster.signal_late_s=9" in (mine / "lab.yaml").read_text()
