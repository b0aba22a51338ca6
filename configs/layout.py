"""How a run is laid out on devices (docs/devices.md); it may be resumed with another layout."""

from ml_collections import ConfigDict


def add_layout(config: ConfigDict) -> None:
    """The keys `parallel` and `mesh`."""
    # "pmap": all tables on each device. "mesh": users are dealt out to mesh.data groups of
    # mesh.model devices, and a group shares the tables.
    config.parallel = "pmap"
    config.mesh = ConfigDict()
    # Their product is the number of devices; 0 for one of them = what the other leaves.
    config.mesh.data = 0
    config.mesh.model = 1
    # (pattern, axes): the first whose pattern is found in the path of a parameter, or of what an
    # optimizer keeps of it, says where it lies. (None, "model") spreads its columns over a group,
    # () copies it to each device, as all that no pattern is found in.
    config.mesh.rules = (
        (r"(^|/)weights/", ()),  # one column
        (r"(^|/)(items|user)/[^/]+$", (None, "model")),
        (r"(^|/)generator_item_emb$", (None, "model")),
    )
