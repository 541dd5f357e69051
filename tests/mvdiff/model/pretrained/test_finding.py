"""Weights named by a path, or by their name in the hub cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mvdiff.errors import InputError
from mvdiff.model.pretrained import find, inspect
from tests.mvdiff.model.pretrained.refusal import refusal

INDEX = "model_index.json"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache, source, commit="37d3f3a4", name="sudo-ai/zero123plus-v1.2"):
    """Put ``source`` into the hub cache as huggingface_hub does: blobs by hash, and links to them."""
    model = cache / f"models--{name.replace('/', '--')}"
    (model / "blobs").mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        link = model / "snapshots" / commit / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = model / "blobs" / f"{number:040x}"
        shutil.copyfile(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    return model / "snapshots" / commit


def test_a_name_in_the_hub_cache_is_found(cache, plus):
    expected = snapshot(cache, plus)
    found = find("sudo-ai/zero123plus-v1.2")
    assert found == expected
    assert inspect(found, half=False).fingerprint() == inspect(plus, half=False).fingerprint()


@pytest.mark.parametrize(
    ("variable", "value", "home"),
    [
        ("HF_HUB_CACHE", "$TEST_HOME/elsewhere", "elsewhere"),
        ("HUGGINGFACE_HUB_CACHE", "{}/old", "old"),
        ("HF_HOME", "{}/hf", "hf/hub"),
        ("XDG_CACHE_HOME", "{}/xdg", "xdg/huggingface/hub"),
        ("HOME", "{}", ".cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, cache, tmp_path, variable, value, home):
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("TEST_HOME", str(tmp_path))
    monkeypatch.setenv(variable, value.format(tmp_path))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / INDEX).write_text("{}")
    expected = snapshot(tmp_path / home, tmp_path / "source")
    assert find("sudo-ai/zero123plus-v1.2") == expected
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert Path(told.strip()) == tmp_path / home


def test_a_folder_is_found_by_any_path(monkeypatch, cache, plus):
    monkeypatch.setenv("HOME", str(plus.parent))
    assert find(str(plus)) == plus
    assert find("~/zero123plus") == plus
    monkeypatch.chdir(plus.parent)
    assert find("zero123plus") == plus
    assert find("./zero123plus") == plus
    snapshot(cache, plus, name="zero123plus/unet")
    assert find("zero123plus/unet") == plus / "unet"


def not_found(name):
    with pytest.raises(InputError) as caught:
        find(name)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("model.pretrained=")
    return text


def test_what_is_nowhere_is_told_with_the_places_looked_at(cache):
    text = not_found("sudo-ai/zero123plus-v9")
    assert f"no folder {Path.cwd()}/sudo-ai/zero123plus-v9" in text
    assert f"no models--sudo-ai--zero123plus-v9 in the hub cache {cache}" in text


@pytest.mark.parametrize(
    "name", ["nowhere", "/no/where/at/all", "a/b/c", "../up/there", "", " ", "a\nb/c", "a\0b", "~nobody-by-that-name/x"]
)
def test_what_is_neither_path_nor_name_is_refused(cache, name):
    not_found(name)


def test_names_too_long_for_a_file_are_refused(cache):
    not_found("x" * 5000)
    not_found("x" * 300 + "/" + "y" * 300)


def test_a_file_is_no_folder(cache, plus):
    assert f"{plus / INDEX} is a file" in not_found(str(plus / INDEX))


def test_one_snapshot_without_a_branch_is_enough_and_two_are_not(cache, plus):
    expected = snapshot(cache, plus)
    (expected.parents[1] / "refs" / "main").unlink()
    assert find("sudo-ai/zero123plus-v1.2") == expected
    snapshot(cache, plus, commit="0f0f0f0f")
    (expected.parents[1] / "refs" / "main").unlink()
    assert "holds 2 snapshots" in not_found("sudo-ai/zero123plus-v1.2")


@pytest.mark.parametrize("commit", ["00000000", "../../../x", "", ".", "\xff"])
def test_a_branch_without_a_snapshot_is_refused(cache, plus, commit):
    main = snapshot(cache, plus).parents[1] / "refs" / "main"
    main.write_bytes(commit.encode("latin-1"))
    not_found("sudo-ai/zero123plus-v1.2")


def test_a_blob_that_is_gone_is_told(cache, plus):
    folder = snapshot(cache, plus)
    (folder / UNET).resolve().unlink()
    assert "links to a file that is gone" in refusal(folder)
