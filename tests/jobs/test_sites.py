"""The files that describe sites: made, found from any folder, and changed without losing what people wrote."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

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
time_min:   60  # an hour
exclude: ~
"""


def read(file: Path):
    """As a job reads it."""
    return OmegaConf.to_container(OmegaConf.load(file))


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
    changed = WRITTEN.replace("time_min:   60 ", "time_min: 90 ")
    learned = "# learned: signal: late\n# learned: signal: in rank 1\n# learned: gpus: none\n"
    assert text == changed + "signal_late_s: 20\n" + learned
    sites.update(file, {}, {"signal": ["in time"]})
    learned = [line for line in file.read_text().splitlines() if line.startswith("# learned")]
    assert learned == ["# learned: gpus: none", "# learned: signal: in time"]


def test_a_link_to_a_site_s_file_stays_one(tmp_path):
    (tmp_path / "shared.yaml").write_text(WRITTEN)
    (tmp_path / "lab.yaml").symlink_to("shared.yaml")
    sites.update(tmp_path / "lab.yaml", {"time_min": 5}, {})
    assert (tmp_path / "lab.yaml").is_symlink()
    assert read(tmp_path / "shared.yaml")["time_min"] == 5


WORDS = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20).filter(lambda text: "${" not in text),
    st.sampled_from(["on", "no", "012", "12:30", "1e3", "~", "null", "a: b", "- a", "# a", "y"]),
)


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
    assert read(file) == expected
    sites.update(file, {"nodes": 2}, {"x": ["y"]})
    assert read(file) == expected | {"nodes": 2}


@pytest.mark.parametrize(
    "name", ["slurm", "local", "here", "a/b", "", ".x", "a b", "a=b", "null", "True", "1", "1e3", "foo.yaml", "möuse"]
)
def test_names_that_no_site_can_have(name):
    with pytest.raises(InputError):
        sites.refuse_name(name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"defaults: [slurm, _self_]\nsetup: [\n", "lab.yaml, line 3"),
        (b"defaults: [slurm, _self_]\nnodes: 1\nnodes: 2\n", "found duplicate key nodes"),
        (b"nodes: 1\n", "builds on no other: begin it with the line defaults: [slurm, _self_]"),
        (b"", "builds on no other"),
        (b"- a\n", "builds on no other"),
        (b"comment: \xff\n", "lab.yaml cannot be read"),
        (b"defaults: [slurm, _self_]\naccount: no\n", "cluster.account=False is no text: quote it"),
        (b"defaults: [slurm, _self_]\nsetup: [a, {b: c}]\n", "cluster.setup"),
        (b"defaults: [slurm, _self_]\nscratch: /x/${USER}\n", "cluster.scratch: Interpolation key 'USER'"),
    ],
)
def test_a_broken_file_is_told_in_a_line(mine, answer, content, says):
    mine.mkdir(parents=True)
    (mine / "lab.yaml").write_bytes(content)
    status, told = answer("synth", "run=x", "samples=8", "cluster=lab", "--dry-run")
    assert status == 2 and says in told and told.count("\n") == 1, told


def test_keys_of_one_s_own_choice_can_be_given_with_the_command(mine, answer):
    sites.create(mine / "lab.yaml", {"extra": {"nice": 5}, "environment": {"A": 1}}, "")
    words = ["run=x", "samples=8", "cluster=lab"]
    more = ["cluster.extra={licenses: 'matlab:1'}", "cluster.environment.B=x y"]
    config = composed("synth", [*words, *more]).cluster
    assert config.extra == {"licenses": "matlab:1"} and config.environment == {"A": 1, "B": "x y"}
    for wrong in ("cluster.extra=1", "cluster.extra={", "cluster.environment.B=["):
        status, told = answer("synth", *words, wrong)
        assert status == 2 and wrong.partition("=")[0] in told and told.count("\n") == 1


def test_a_lab_s_file_stays_the_lab_s(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_bytes(b"---\r\ndefaults: [slurm, _self_]\r\ncard: 'a # b'  # of one\r\n")
    file.chmod(0o664)
    os.chown(file, -1, 100)
    sites.update(file, {"card": 79.6}, {"gpus": ["4"]})
    assert file.stat().st_mode & 0o777 == 0o664 and file.stat().st_gid == 100
    expected = b"---\r\ndefaults: [slurm, _self_]\r\ncard: 79.6  # of one\r\n# learned: gpus: 4\r\n"
    assert file.read_bytes() == expected


def test_those_who_learn_at_once_lose_nothing(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text("defaults: [slurm, _self_]\n")
    parts = [f"part{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: sites.update(file, {part: 1}, {part: ["x"]}), parts))
    assert set(read(file)) == {"defaults", *parts}
    assert file.read_text().count("# learned: ") == 8


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
