"""What tests of several rooms share."""

import gc
import json

import pytest

from jobs.cli import main


def pytest_collection_finish() -> None:
    """Spare the garbage collector what the libraries have made: every training at its end collects everything."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def nobody_s_own_sites(tmp_path_factory):
    """Whoever runs the tests may have described clusters of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def answer(capsys):
    """Run a command, and return its exit status and what it printed: an object of --json, or text."""

    def run(*words):
        capsys.readouterr()
        status = main(words)
        told = capsys.readouterr()
        return status, json.loads(told.out) if "--json" in words else told.out + told.err

    return run
