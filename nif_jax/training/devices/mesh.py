"""Tables spread over devices: jit of shard_map over a mesh with the axes "data" and "model"."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nif_jax.data.schema import ConfigError
from nif_jax.data.table_columns import MODEL, Columns, is_columns
from nif_jax.training.devices.base import AXIS, Devices
from nif_jax.training.devices.processes import on_host

Rules = Sequence[tuple[str, Sequence[str | None]]]
COLUMNS = (None, MODEL)
"""Axes of a table whose columns are spread; a rule's other form is (), a copy on each device."""


class Mesh(Devices):
    """Shards of users over "data"; within a shard, columns of tables over "model".

    The devices of one shard (a row of the mesh) compute the same rows of a batch. Of a replicated
    tree, each has the columns that the rules give it, and a copy of all else. A mapped function
    gets the former as Columns.
    """

    def __init__(
        self, data: int, model: int, rules: Rules, devices: Sequence[jax.Device] | None = None
    ):
        """Takes data x model devices: all of the run, or some devices of a single process.

        Args:
          data: devices along "data".
          model: devices along "model".
          rules: (pattern, axes): the first whose pattern is found in the path of a floating-point
            array, such as "params/items/id", says whether its columns are spread.
          devices: the devices.
        """
        chosen = list(devices or jax.devices())
        grid = mesh_utils.create_device_mesh((data, model), chosen)
        self._mesh = jax.sharding.Mesh(grid, (AXIS, MODEL))
        self._rules = [(re.compile(pattern), tuple(axes)) for pattern, axes in rules]
        own = jax.process_index()
        self._local = [k for k in range(data) if any(d.process_index == own for d in grid[k])]

    @property
    def num_shards(self) -> int:
        """See Devices."""
        return self._mesh.shape[AXIS]

    @property
    def local_shards(self) -> Sequence[int]:
        """See Devices. A shard with devices of several processes is local to all of them."""
        return self._local

    @property
    def splits_tables(self) -> bool:
        """See Devices."""
        return True

    def map(
        self, fn: Callable[..., Any], donate: Sequence[int] = (), sharded: bool = False
    ) -> Callable[..., Any]:
        """See Devices."""
        return _Mapped(self._mesh, fn, tuple(donate), sharded)

    def shard(self, tree: Any) -> Any:
        """See Devices."""
        place = {shard: k for k, shard in enumerate(self._local)}
        sharding = NamedSharding(self._mesh, P(AXIS))

        def put(x):
            def part(index):
                return x[place[index[0].start or 0]][None]

            return jax.make_array_from_callback((self.num_shards, *x.shape[1:]), sharding, part)

        return jax.tree.map(put, tree)

    def unshard(self, tree: Any) -> Any:
        """See Devices."""

        def get(x):
            parts = {part.index[0].start or 0: part.data for part in x.addressable_shards}
            return np.concatenate([np.asarray(parts[shard]) for shard in self._local])

        _start_copies(tree)
        return jax.tree.map(get, tree)

    def sharding(self, path: Any, x: Any) -> NamedSharding:
        """Where an array of a replicated tree lies.

        Args:
          path: of jax.tree_util.
          x: the array, or its shape and type.

        Raises:
          ConfigError: the devices along "model" do not divide the columns that a rule spreads.
        """
        name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        axes = next((axes for pattern, axes in self._rules if pattern.search(name)), ())
        devices = self._mesh.shape[MODEL]
        if devices == 1 or axes != COLUMNS or not np.issubdtype(x.dtype, np.floating):
            return NamedSharding(self._mesh, P())
        if not x.ndim or x.shape[-1] % devices:
            raise ConfigError(
                f"config.mesh.rules spread the columns of {name!r}, an array {list(x.shape)}, over "
                f"{devices} devices, which do not divide them. Put the rule ({re.escape(name)!r}, "
                "()) before the others, or change config.mesh.model or the width of the table."
            )
        return NamedSharding(self._mesh, _spec("columns", x.ndim))

    def replicate(self, tree: Any) -> Any:
        """See Devices."""

        def put(path, x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.sharding(path, x), lambda i: x[i])

        return jax.tree_util.tree_map_with_path(put, tree)

    def unreplicate(self, tree: Any) -> Any:
        """See Devices."""
        _start_copies(tree)
        return jax.tree.map(on_host, tree)

    def to_checkpoint(self, tree: Any) -> Any:
        """See Devices."""
        return tree

    def checkpoint_like(self, like: Any) -> Any:
        """See Devices."""

        def one(path, x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding(path, x))

        return jax.tree_util.tree_map_with_path(one, like)

    def from_checkpoint(self, tree: Any) -> Any:
        """See Devices."""
        on_host = any(isinstance(x, np.ndarray) for x in jax.tree.leaves(tree))
        return self.replicate(tree) if on_host else tree

    def call_on_first(self, fn: Callable[..., Any], tree: Any, *arguments: Any) -> Any:
        """See Devices."""

        def call(tree, *arguments):
            return fn(jax.tree.map(lambda x: x[0], tree), *arguments)

        first = jax.tree.map(lambda x: x.addressable_data(0), tree)
        return jax.jit(call)(first, *arguments)


def _start_copies(tree: Any) -> None:
    for x in jax.tree.leaves(tree):
        x.copy_to_host_async()


def _kind(x: jax.Array) -> str:
    """ "shard" (an entry for each shard), "columns" or "whole"."""
    axes = x.sharding.spec  # type: ignore[attr-defined]  # a NamedSharding
    return "shard" if AXIS in axes else "columns" if MODEL in axes else "whole"


def _spec(kind: str, ndim: int) -> P:
    if kind == "columns":
        return P(*[None] * (ndim - 1), MODEL)
    return P(AXIS) if kind == "shard" else P()


def _enter(kind: str, x: jax.Array) -> Any:
    """What a mapped function gets of this device's part of an array."""
    return x[0] if kind == "shard" else Columns(x) if kind == "columns" else x


class _Mapped:
    """A mapped function, which is compiled for the layout of its first arguments; see Mesh.map."""

    def __init__(self, mesh, fn: Callable[..., Any], donate: tuple[int, ...], sharded: bool):
        self._mesh, self._fn, self._donate, self._sharded = mesh, fn, donate, sharded
        self._programs: dict[Any, tuple[Any, Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        program, tree = self._program(arguments)
        return jax.tree.unflatten(tree(), program(*arguments))

    def lower(self, *arguments: Any) -> Any:
        """jax.stages.Lowered for these arguments."""
        return self._program(arguments)[0].lower(*arguments)

    def _program(self, arguments: Any) -> tuple[Any, Any]:
        """The compiled function, whose results are a list, and a function that gives their tree."""
        leaves, tree = jax.tree.flatten(arguments)
        kinds = tuple(_kind(x) for x in leaves)
        if (tree, kinds) not in self._programs:
            self._programs[tree, kinds] = self._make(arguments, jax.tree.unflatten(tree, kinds))
        return self._programs[tree, kinds]

    def _make(self, arguments: Any, kinds: Any) -> tuple[Any, Any]:
        found: dict[str, Any] = {}

        @jax.jit  # traced once, for the types of the results, and used twice
        def local(*parts):
            result = self._fn(*jax.tree.map(_enter, kinds, parts))
            leaves, found["tree"] = jax.tree.flatten(result, is_leaf=is_columns)
            found["columns"] = [is_columns(x) for x in leaves]
            values = [x.values if is_columns(x) else x for x in leaves]
            return [x[None] for x in values] if self._sharded else values

        specs = jax.tree.map(lambda kind, x: _spec(kind, x.ndim), kinds, arguments)
        options = {"mesh": self._mesh, "in_specs": specs, "check_vma": False}
        shapes = jax.eval_shape(jax.shard_map(local, out_specs=P(), **options), *arguments)
        results = [
            _spec("shard" if self._sharded else "columns" if columns else "whole", x.ndim)
            for columns, x in zip(found["columns"], shapes, strict=True)
        ]
        mapped = jax.shard_map(local, out_specs=results, **options)
        return jax.jit(mapped, donate_argnums=self._donate), lambda: found["tree"]
