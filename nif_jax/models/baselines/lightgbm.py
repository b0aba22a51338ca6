"""LightGBM (Ke et al., NeurIPS 2017) on the count features: what many practitioners try first.

The library trains the trees; the module below evaluates them, so that scores, checkpoints and
tables of this variant are made as those of every other one.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.data.schema import ConfigError
from nif_jax.models.baselines.interface import Baseline, Examples, FitData

BLOCK = 50
"""Trees that are evaluated together."""

PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
PATIENCE = 50
"""Trees without a better validation loss before training stops."""


def columns(example: Examples) -> Any:
    """[B, X] what the trees split on: count features, scene and the user's profile as numbers."""
    profile = [v for name, v in sorted(example.user_features.items()) if name != "id"]
    numbers = [example.scene, *profile]
    assert example.statistics is not None  # require_relations
    xp: Any = jnp if isinstance(example.scene, jax.Array) else np
    numbers = xp.stack([x.astype(xp.float32) for x in numbers], axis=1)
    return xp.concatenate([example.statistics.astype(xp.float32), numbers], axis=1)


class Trees(Baseline):
    """logit = sum of a leaf of each tree.

    Parameters, [T, K] each, K = 2 leaves - 1 nodes: "feature", "threshold", "left" and "right"
    (nodes; a leaf is its own children), "value" (of leaves); and "number" of trees that are real.
    They are float32, as all parameters.

    Attributes:
      num_trees: T, trees at most.
      leaves: of a tree at most.
    """

    num_trees: int
    leaves: int

    @nn.compact
    def score(self, batch, items, train: bool) -> jax.Array:
        """[B]."""
        del items, train
        shape = (-(-self.num_trees // BLOCK), BLOCK, 2 * self.leaves - 1)
        names = ("feature", "threshold", "left", "right", "value")
        trees = {name: self.param(name, nn.initializers.zeros, shape) for name in names}
        number = self.param("number", nn.initializers.zeros, ())
        trees, number, x = jax.lax.stop_gradient((trees, number, columns(batch)))

        def add_block(block, total):
            own = {name: values[block] for name, values in trees.items()}
            return total + _leaves(own, x).sum(1)

        blocks = jnp.ceil(number / BLOCK).astype(jnp.int32)
        return jax.lax.fori_loop(0, blocks, add_block, jnp.zeros(x.shape[0]))

    @staticmethod
    def fit(data: FitData) -> dict:
        """See Baseline.fit; the number of trees is chosen on validation."""
        import lightgbm

        settings = data.settings
        train, validation = (
            lightgbm.Dataset(columns(part), part.label) for part in (data.train, data.validation)
        )
        booster = lightgbm.train(
            PARAMETERS | {"num_leaves": settings["leaves"], "seed": data.seed},
            train,
            settings["num_trees"],
            valid_sets=[validation],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        return as_arrays(booster, settings["num_trees"], settings["leaves"])


def _leaves(trees: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """[B, T] value of the leaf of each tree [T, K] that an example [B, X] falls into."""
    place = jnp.arange(len(trees["value"]))

    def step(node):
        feature, threshold = (trees[name][place, node] for name in ("feature", "threshold"))
        value = jnp.take_along_axis(x, feature.astype(jnp.int32), axis=1)
        side = jnp.where(
            value <= threshold, trees["left"][place, node], trees["right"][place, node]
        )
        return side.astype(jnp.int32)

    def moves(state):
        return (state[0] != state[1]).any()

    start = jnp.zeros((x.shape[0], len(place)), jnp.int32)
    node, _ = jax.lax.while_loop(moves, lambda s: (step(s[0]), s[0]), (step(start), start))
    return trees["value"][place, node]


def as_arrays(booster: Any, num_trees: int, leaves: int) -> dict[str, Any]:
    """Parameters of Trees from a trained lightgbm.Booster, as of its best iteration."""
    shape = (-(-num_trees // BLOCK) * BLOCK, 2 * leaves - 1)
    trees = {name: np.zeros(shape, np.float32) for name in ("feature", "threshold", "value")}
    trees |= {side: np.tile(np.arange(shape[1], dtype=np.float32), (shape[0], 1)) for side in SIDES}
    dump = booster.dump_model(num_iteration=booster.best_iteration)["tree_info"]
    for tree, info in enumerate(dump):
        waiting: list[tuple[Any, Any, Any]] = [(info["tree_structure"], None, None)]
        size = 0
        while waiting:
            node, parent, side = waiting.pop()
            if parent is not None:
                trees[side][tree, parent] = size
            if "leaf_value" in node:
                trees["value"][tree, size] = node["leaf_value"]
            else:
                if node["decision_type"] != "<=":
                    raise ConfigError(f"a split by {node['decision_type']!r} is not supported")
                trees["feature"][tree, size] = node["split_feature"]
                # Rounded down: inputs are float32, so that x <= threshold stays what it is.
                trees["threshold"][tree, size] = _floor32(node["threshold"])
                waiting += [
                    (node["left_child"], size, "left"),
                    (node["right_child"], size, "right"),
                ]
            size += 1
    blocks = {k: v.reshape(-1, BLOCK, shape[1]) for k, v in trees.items()}
    return blocks | {"number": np.float32(len(dump))}


SIDES = ("left", "right")


def _floor32(value: float) -> np.float32:
    """The largest float32 that is at most `value`."""
    rounded = np.float32(value)
    return rounded if rounded <= value else np.nextafter(rounded, np.float32(-np.inf))


MODEL = Trees
