"""Finished runs that the tests of a module share."""

import pytest

from configs import hybrid, nif
from nif_jax.experiment import runner
from tests.end_to_end.runs import TINY_BASELINES, TINY_HYBRID, TINY_NIF, WRITERS


@pytest.fixture(autouse=True)
def _close_writers():
    yield
    while WRITERS:
        WRITERS.pop().close()


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIF_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of all four rows."""
    workdir = tmp_path_factory.mktemp("runs") / "nif"
    runner.run(nif.get_config(TINY_NIF), workdir, "train")
    return workdir


@pytest.fixture(scope="module")
def finished_hybrid(tmp_path_factory):
    """A finished run of the hybrid, which has every stage but TSP and flow alone."""
    workdir = tmp_path_factory.mktemp("runs") / "hybrid"
    runner.run(hybrid.get_config(TINY_HYBRID), workdir, "train")
    return workdir


@pytest.fixture(scope="module")
def finished_baselines(tmp_path_factory):
    """A finished run of all baselines."""
    workdir = tmp_path_factory.mktemp("runs") / "baselines"
    runner.run(nif.get_config(TINY_BASELINES), workdir, "train")
    return workdir
