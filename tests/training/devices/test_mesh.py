"""A mesh of up to 8 devices, in a process of its own, and the shape of the mesh of a config."""

import os
import pathlib
import subprocess
import sys

import pytest

from configs import nif
from configs.common import FAST_COMPILATION
from nif_jax.data.schema import ConfigError
from nif_jax.experiment.layout import make_devices, mesh_shape
from nif_jax.training.devices.mesh import Mesh

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_on_eight_devices():
    flags = f"--xla_force_host_platform_device_count=8 {FAST_COMPILATION}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, str(pathlib.Path(__file__).with_name("eight_devices.py"))],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
    assert "14 passed" in found.stdout


@pytest.mark.parametrize(
    ("given", "devices", "shape"),
    [
        ((4, 2), 8, (4, 2)),
        ((0, 2), 8, (4, 2)),
        ((2, 0), 8, (2, 4)),
        ((0, 0), 8, (8, 1)),
        ((0, 1), 1, (1, 1)),
    ],
)
def test_zero_is_what_the_other_leaves(given, devices, shape):
    assert mesh_shape(*given, devices) == shape


@pytest.mark.parametrize("given", [(3, 2), (0, 3), (16, 0), (8, 8)])
def test_a_mesh_of_another_size_is_refused_and_the_remedy_helps(given):
    with pytest.raises(ConfigError, match=r"config\.mesh\.data=.* number of devices") as error:
        mesh_shape(*given, 8)
    assert "one of 1, 2, 4, 8." in str(error.value)
    assert [mesh_shape(0, model, 8) for model in (1, 2, 4, 8)] == [(8, 1), (4, 2), (2, 4), (1, 8)]


def test_a_width_that_the_devices_do_not_divide_is_refused():
    text = "synthetic,smoke,parallel=mesh,mesh.model=2,mesh.data=1,ranker.dim=9,rows=base"
    with pytest.raises(ConfigError, match=r"mesh\.model=2 has to divide config\.ranker\.dim=9"):
        make_devices(nif.get_config(text))
    assert isinstance(make_devices(nif.get_config(text.replace("=9", "=8"))), Mesh)
