import shutil

import pytest

from tests.mvdiff.model.published import write_stable_diffusion, write_zero123plus

SMALL = {"unet_channels": (32, 32, 32, 32), "layers_per_block": 1, "vae_layers_per_block": 1}


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    home = tmp_path_factory.mktemp("originals")
    write_zero123plus(home / "zero123plus", **SMALL)
    write_stable_diffusion(home / "stable-diffusion", **SMALL)
    return home


@pytest.fixture
def plus(originals, tmp_path):
    return shutil.copytree(originals / "zero123plus", tmp_path / "zero123plus")


@pytest.fixture
def stable(originals, tmp_path):
    return shutil.copytree(originals / "stable-diffusion", tmp_path / "stable-diffusion")
