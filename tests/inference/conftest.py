"""One finished run with variants of all three configs, and its models."""

import functools
import os

import filelock
import pytest

from configs import hybrid
from nif_jax.experiment import restore, runner
from nif_jax.inference import build, export
from tests.end_to_end.runs import TINY_HYBRID

ROWS = ("base", "amen_labels", "popularity", "genci", "hybrid", "selected")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a finished run; tests do not write to it."""
    root = tmp_path_factory.getbasetemp()
    # The processes of pytest-xdist share what the first of them trains.
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / "inference"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIF_JAX_CACHE", str(folder / "cache"))
        text = f"{TINY_HYBRID},train.epochs=1.0,rows={'+'.join(ROWS)}"
        with filelock.FileLock(root / "inference.lock"):
            runner.run(hybrid.get_config(text), folder / "run", "train")
        yield folder / "run"


@pytest.fixture(scope="session")
def restored(finished):
    """variant -> what is read of the run for it."""
    return functools.cache(lambda variant: restore.restore(finished, variant))


@pytest.fixture(scope="session")
def load(restored):
    """variant -> its model, as nif_jax.load makes it."""
    return functools.cache(lambda variant: build.build(restored(variant)))


@pytest.fixture(scope="session")
def artefacts(load, tmp_path_factory):
    """variant -> the folder of its artefact, exported once; tests do not write to it."""
    parent = tmp_path_factory.mktemp("artefacts")

    @functools.cache
    def of(variant):
        export.export(load(variant), parent / variant)
        return parent / variant

    return of
