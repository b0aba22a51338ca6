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
def inference_folder(tmp_path_factory):
    """For what the processes of pytest-xdist share: the first that needs it makes it."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "inference"


@pytest.fixture(scope="session")
def finished(inference_folder):
    """The workdir of a finished run; tests do not write to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIF_JAX_CACHE", str(inference_folder / "cache"))
        text = f"{TINY_HYBRID},train.epochs=1.0,rows={'+'.join(ROWS)}"
        with filelock.FileLock(inference_folder.with_suffix(".lock")):
            runner.run(hybrid.get_config(text), inference_folder / "run", "train")
        yield inference_folder / "run"


@pytest.fixture(scope="session")
def restored(finished):
    """variant -> what is read of the run for it."""
    return functools.cache(lambda variant: restore.restore(finished, variant))


@pytest.fixture(scope="session")
def load(restored):
    """variant -> its model, as nif_jax.load makes it."""
    return functools.cache(lambda variant: build.build(restored(variant)))


@pytest.fixture(scope="session")
def artefacts(load, inference_folder):
    """variant -> the folder of its artefact; tests do not write to it."""

    def of(variant):
        folder = inference_folder / "artefacts" / variant
        with filelock.FileLock(inference_folder.with_suffix(".lock")):
            if not folder.exists():
                export.export(load(variant), folder)
        return folder

    return functools.cache(of)
