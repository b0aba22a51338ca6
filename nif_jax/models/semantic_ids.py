"""Semantic IDs as arrays: the codes of every item, and the prefix trie that they span.

Nodes of a level are numbered in the order of their prefixes. A level's children are found by their
key, parent * V + code, in a sorted array: no pointers, and gathers only.
Letters: N items, K digits (levels and, if any collide, a last one), V codes of a digit, M nodes at
most.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.data.schema import ConfigError
from nif_jax.data.windows import Array

_NO_KEY = np.iinfo(np.int32).max


class SemanticIds(NamedTuple):
    """Attributes:
    code: [N + 1, K] int32 in 1..V; row 0 is padding.
    node: [N + 1, K] int32, the node of each item at each level; -1 for padding.
    key: [K, N] int32 sorted keys of the nodes of each level, padded with the largest int32.
    allowed: [K, M, V] bool, whether a node of the level before has the child.
    item: [N] int32, the item of each node of the last level.
    """

    code: Array
    node: Array
    key: Array
    allowed: Array
    item: Array

    @property
    def num_digits(self) -> int:
        """K."""
        return self.code.shape[-1]

    @property
    def num_codes(self) -> int:
        """V."""
        return self.allowed.shape[-1]


def add_digit(codes: np.ndarray, size: int) -> np.ndarray:
    """[N, K + 1]: the last digit numbers items that collide, in the order of their ids.

    [N, K], the codes as they are, if none collide: a digit that is always the same would cost a
    token and a step of beam search, and say nothing.

    Raises:
      ConfigError: more items share a code than a digit can hold.
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    start = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.arange(len(group)) - np.repeat(start, np.diff(np.append(start, len(group))))
    digit = np.empty(len(group), np.int32)
    digit[order] = place
    if len(digit) and digit.max() >= size:
        raise ConfigError(
            f"{digit.max() + 1} items share one semantic ID, and the last digit tells only {size} "
            "apart: raise config.tokenizer.codes or config.tokenizer.levels, or give items more "
            "content (items without any all collide)."
        )
    if not digit.any():
        return codes.astype(np.int32)
    return np.concatenate([codes, digit[:, None]], axis=1).astype(np.int32)


def build_semantic_ids(codes: np.ndarray, size: int) -> SemanticIds:
    """The trie of a catalogue.

    Args:
      codes: [N, K] in 0..V-1, all different (see add_digit).
      size: V.

    Raises:
      ConfigError: so many nodes that keys overflow int32.
      ValueError: two items with one code.
    """
    count, digits = codes.shape
    if count * size >= _NO_KEY:
        raise ConfigError(f"{count} items x {size} codes overflow int32 keys; use fewer codes.")
    parent = np.zeros(count, np.int64)
    keys, nodes = np.full((digits, count), _NO_KEY, np.int32), []
    for digit in range(digits):
        found, parent = np.unique(parent * size + codes[:, digit], return_inverse=True)
        parent = parent.reshape(-1)
        keys[digit, : len(found)] = found
        nodes.append(parent)
    if len(found) < count:
        raise ValueError(f"{count - len(found)} items share their code with another.")
    # Parents of a level are the nodes of the level before.
    allowed = np.zeros((digits, max([1] + [n.max() + 1 for n in nodes[:-1]]), size), bool)
    for digit in range(digits):
        real = keys[digit][keys[digit] < _NO_KEY]
        allowed[digit, real // size, real % size] = True
    item = np.empty(count, np.int32)
    item[nodes[-1]] = np.arange(1, count + 1)
    return SemanticIds(
        code=np.pad(codes + 1, ((1, 0), (0, 0))).astype(np.int32),
        node=np.pad(np.stack(nodes, 1), ((1, 0), (0, 0)), constant_values=-1).astype(np.int32),
        key=keys,
        allowed=allowed,
        item=item,
    )


def children(ids: SemanticIds, digit: Array, node: Array, code: Array) -> Array:
    """[...] int32 nodes reached from `node` by `code` (0..V-1) at `digit`; -1 where there is none.

    `node` -1 stays -1.
    """
    key, keys = node * ids.num_codes + code, jnp.asarray(ids.key)
    count = keys.shape[1]

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        # Of keys [K, N] single numbers are read: a row of it would be a copy of N.
        below = (low < high) & (keys[digit, middle] < key)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    bounds = (jnp.zeros(key.shape, jnp.int32), jnp.full(key.shape, count, jnp.int32))
    place, _ = jax.lax.fori_loop(0, count.bit_length(), halve, bounds)
    place = jnp.minimum(place, count - 1)
    return jnp.where((node >= 0) & (keys[digit, place] == key), place, -1).astype(jnp.int32)
