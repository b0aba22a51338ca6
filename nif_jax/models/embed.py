"""Embeddings of items, users and the context of an event; ranker and generator share the forms.

Equal parameter paths and shapes are what cross-stage initialisation copies by, so both models name
these modules `items` and `context`.

Embeddings are float32 whatever config.compute_dtype is, and the models round their sums: gradients
of a row that is read many times are then added up in float32.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.buckets import NUM_GAPS
from nif_jax.data.table_columns import Columns, is_columns, whole
from nif_jax.data.table_rows import TableRows
from nif_jax.data.vocabulary import OOV
from nif_jax.data.windows import Window
from nif_jax.models.cpu import over_positions
from nif_jax.models.dropout import Dropout

embedding_init = nn.initializers.normal(stddev=0.05)
Table = jax.Array | TableRows | Columns


def table_name(feature: str) -> str:
    """Name of a feature's parameter: the feature's own, which may be any text.

    But for "/", which separates the names of a path, "drop", which is a submodule's, and "params",
    by which Flax tells variables from parameters.
    """
    escaped = feature.replace("%", "%25").replace("/", "%2F")
    return f"%{escaped}" if escaped in ("drop", "params") else escaped


def _tables(module: nn.Module, sizes: Mapping[str, int], dim: int) -> dict[str, Table]:
    """A table [rows, D] for each feature, or what a step has of it."""

    def table(name: str, size: int) -> Table:
        # `param` would compare shapes, and what stands in for a table has another one.
        given: Any = module.get_variable("params", name)
        if isinstance(given, (TableRows, Columns)):
            return given
        return module.param(name, embedding_init, (size, dim))

    return {name: table(table_name(name), size) for name, size in sorted(sizes.items())}


def _has_rows(table: Table) -> bool:
    """Whether a table stands for some of its rows."""
    return isinstance(table.values if isinstance(table, Columns) else table, TableRows)


def _mean(table: Table, ids: jax.Array) -> Table:
    """[..., D] mean embedding of ids [..., M], of which 0 is padding; Columns of Columns."""
    if isinstance(table, Columns):
        return Columns(_mean(table.values, ids))
    real = (ids > 0)[..., None].astype(table.dtype)
    return (table[ids] * real).sum(-2) / jnp.maximum(real.sum(-2), 1.0)


def catalogue_is_shorter(rows: int, ids: jax.Array) -> bool:
    """Whether a catalogue has no more rows than `ids` has entries.

    False where their number is symbolic (jax.export): a program for every number may not read the
    whole catalogue for one item.
    """
    return isinstance(ids.size, int) and rows <= ids.size


class ItemEmbed(nn.Module):
    """Sum over features of the mean embedding of an item's values; the id is one feature.

    Attributes:
      sizes: feature name -> rows of its table.
      dim: D.
      id_dropout: share of items that a train step sees as unknown, so that the embedding of
        unknown items (OOV) learns and the content carries its part.
    """

    sizes: Mapping[str, int]
    dim: int
    id_dropout: float = 0.0

    def setup(self):
        self.tables = _tables(self, self.sizes, self.dim)
        if self.id_dropout:
            self.drop = Dropout(self.id_dropout)

    def _fields(self, features: Mapping[str, jax.Array], train: bool) -> list[Table]:
        fields = []
        for name, table in self.tables.items():
            ids = features[name]
            if name == "id" and self.id_dropout and train:
                keep = self.drop(jnp.ones(ids.shape, jnp.float32), deterministic=False) > 0
                ids = jnp.where(keep | (ids == 0), ids, OOV)
            fields.append(_mean(table, ids))
        return fields

    def fields(self, features: Mapping[str, jax.Array], train: bool = False) -> list[jax.Array]:
        """An embedding [N + 1, D] for each feature of [N + 1, M] ids; or any other leading axes."""
        return [whole(field) for field in self._fields(features, train)]

    def table(self, features: Mapping[str, jax.Array], train: bool = False) -> Table:
        """[N + 1, D], the sum of `fields`; Columns if all tables are."""
        fields = self._fields(features, train)
        if all(map(is_columns, fields)):
            return Columns(sum(field.values for field in fields))  # type: ignore[union-attr,misc]
        return sum(map(whole, fields))  # type: ignore[return-value]  # no int: not empty

    def __call__(
        self, ids: jax.Array, features: Mapping[str, jax.Array], train: bool = False
    ) -> jax.Array:
        """[..., D] for item ids [...]: from one pass over the catalogue where that is shorter."""
        complete = not any(_has_rows(table) for table in self.tables.values())
        if complete and catalogue_is_shorter(features["id"].shape[0], ids):
            return self.table(features, train)[ids]
        return whole(self.table({name: values[ids] for name, values in features.items()}, train))


class ContextEmbed(nn.Module):
    """Embedding of where, what and when of an event: scene + action + time gap.

    Row 0 of each table is "unknown": what an imagined event of a roll-out has.

    Attributes:
      num_scenes: S.
      num_actions: A.
      dim: D.
    """

    num_scenes: int
    num_actions: int
    dim: int

    def setup(self):
        self.scene = self.param("scene", embedding_init, (self.num_scenes + 1, self.dim))
        self.action = self.param("action", embedding_init, (self.num_actions + 1, self.dim))
        self.gap = self.param("gap", embedding_init, (NUM_GAPS, self.dim))

    def __call__(self, window: Window) -> jax.Array:
        """[B, L, D]."""
        return self.scene[window.scene] + self.action[window.action] + self.gap[window.gap]

    def unknown(self) -> jax.Array:
        """[D], the context of an event that has not happened."""
        return self.scene[0] + self.action[0] + self.gap[0]


def hide_context(window: Window, key: jax.Array, share: float) -> Window:
    """The window with scene, action and gap unknown at a random share of the entries."""
    hide = jax.random.bernoulli(key, share, window.item.shape)
    context = (jnp.where(hide, 0, ids) for ids in (window.scene, window.action, window.gap))
    return window._replace(**dict(zip(("scene", "action", "gap"), context, strict=True)))


class UserEmbed(nn.Module):
    """The user's id embedding, 0 for a user that train has not seen, and the sum of the profile's.

    Attributes:
      sizes: feature name -> rows of its table.
      dim: D.
    """

    sizes: Mapping[str, int]
    dim: int

    def setup(self):
        self.tables = _tables(self, self.sizes, self.dim)

    def fields(self, features: Mapping[str, jax.Array]) -> list[jax.Array]:
        """An embedding [B, D] for each feature, identity first."""
        profile = {name: table[features[name]] for name, table in self.tables.items()}
        # No row of train has an unknown user: its embedding would stay the noise it started as.
        known = (features["id"] != OOV)[..., None]
        return [profile.pop("id") * known, *profile.values()]

    def __call__(self, features: Mapping[str, jax.Array]) -> list[jax.Array]:
        """One or two fields [B, D]: identity, and profile where the data has one."""
        identity, *profile = self.fields(features)
        if not profile:
            return [identity]
        return [identity, sum(profile)]  # type: ignore[list-item]  # no int: not empty


def second_order(fields: jax.Array) -> jax.Array:
    """[B] sum over pairs of fields [B, F, D] of their products, by the FM identity in O(F D)."""
    return 0.5 * (fields.sum(1) ** 2 - (fields**2).sum(1)).sum(-1)


class Mlp(nn.Module):
    """Dense layers with ReLU between; the last layer is linear, and float32: it gives logits.

    Attributes:
      widths: output width of each layer.
      dropout: rate after each hidden layer.
      dtype: of the hidden layers (config.compute_dtype); parameters are float32.
    """

    widths: tuple[int, ...]
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def layers(flat):
            for width in self.widths[:-1]:
                flat = nn.relu(nn.Dense(width, dtype=self.dtype)(flat))
                flat = Dropout(self.dropout)(flat, deterministic=not train)
            return nn.Dense(self.widths[-1], dtype=jnp.float32)(flat)

        return over_positions(layers, x)
