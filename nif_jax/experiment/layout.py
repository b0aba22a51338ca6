"""The layout of a run on its devices, from the keys `parallel` and `mesh` of its config."""

import jax
from ml_collections import ConfigDict

from nif_jax.data.schema import ConfigError
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.mesh import Mesh
from nif_jax.training.devices.pmap import Pmap
from nif_jax.variants import VARIANTS


def make_devices(config: ConfigDict) -> Devices:
    """The devices of a run; a mesh takes all of them.

    Raises:
      ConfigError: the mesh has another number of devices, or does not divide the width of tables.
    """
    if config.parallel == "pmap":
        return Pmap()
    data, model = mesh_shape(config.mesh.data, config.mesh.model, jax.device_count())
    for key in table_widths(config):
        section, name = key.split(".")
        width = config[section][name]
        if width % model:
            raise ConfigError(
                f"config.mesh.model={model} has to divide config.{key}={width}, whose columns the "
                "devices of a group share: change one of them."
            )
    return Mesh(data, model, config.mesh.rules)


def table_widths(config: ConfigDict) -> list[str]:
    """Keys of the widths of the tables that the variants of a run have."""
    keys = ["ranker.dim"]
    if any(VARIANTS[name].flow for name in config.rows):
        keys.append("generator.dim")
    if any(VARIANTS[name].model == "fm" for name in config.rows):
        keys.append("baselines.factors")
    return keys


def mesh_shape(data: int, model: int, devices: int) -> tuple[int, int]:
    """Devices along "data" and "model"; 0 = what the other leaves.

    Raises:
      ConfigError: their product is not the number of devices; names a shape that is.
    """
    if data and not model:
        model = devices // data
    elif not data:
        model = model or 1
        data = devices // model
    if data * model == devices:
        return data, model
    fits = [k for k in range(1, devices + 1) if devices % k == 0]
    raise ConfigError(
        f"config.mesh.data={data} x config.mesh.model={model} is not the number of devices of this "
        f"run, {devices}. Set config.mesh.data=0, which takes what is left, and config.mesh.model "
        f"to one of {', '.join(map(str, fits))}."
    )
