"""The flow generator one event at a time: keys and values of overlapping windows.

`nif_jax/data/chunks.py` says which window adds an entry. An entry is read by the window that adds
it and by the later ones that it is context of: R windows, whose keys and values are kept side by
side, so that an event costs the same whenever it comes.

Letters: R windows, S context, H heads, d width of a head, D width, T horizon.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nif_jax.data.chunks import stride_of
from nif_jax.models.attention import KeyValue
from nif_jax.models.flow import FlowDecoder, unit


class FlowState(NamedTuple):
    """What the generator keeps of one moveline.

    Attributes:
      memories: for each block, keys and values [R, S, H, d]; window k is at k mod R.
      past: [S, 2, H, d] keys and values of the label head; entry e is at e mod S.
      heads: [H, d] the flow state after the last entry.
    """

    memories: list[KeyValue]
    past: jax.Array
    heads: jax.Array


def num_windows(context: int) -> int:
    """R, windows that read an entry."""
    return -(-context // stride_of(context))


def empty_state(decoder: FlowDecoder, context: int) -> FlowState:
    """The state of a moveline without entries."""
    head = (decoder.heads, decoder.dim // decoder.heads)
    shape = (num_windows(context), context, *head)
    # No array is there twice: a state that is donated needs buffers of its own.
    memories = [KeyValue(jnp.zeros(shape), jnp.zeros(shape)) for _ in range(decoder.layers)]
    return FlowState(memories, jnp.zeros((context, 2, *head)), jnp.zeros(head))


def _places(entry: jax.Array, context: int) -> tuple[jax.Array, jax.Array]:
    """[R] place of an entry in each window, negative before it begins, and [R] the first real
    place of the window."""
    stride, windows = stride_of(context), num_windows(context)
    newest = entry // stride
    number = newest + (jnp.arange(windows) - newest) % windows
    begin = (number + 1) * stride - context
    return entry - begin, jnp.maximum(-begin, 0)


def add_event(
    bound: FlowDecoder,
    state: FlowState,
    entry: jax.Array,
    vector: jax.Array,
    scene: jax.Array,
    action: jax.Array,
    gap: jax.Array,
) -> FlowState:
    """The state after one more entry.

    Args:
      bound: the generator with its parameters.
      state: before it.
      entry: [] number of earlier entries.
      vector: [D] unit vector of its item.
      scene: [] its scene; action: [] its action.
      gap: [] bucket of the time since the entry before.
    """
    context = len(state.past)
    place, first = _places(entry, context)

    def window(memories, place, first):
        """Heads, keys and values of the entry, and what the last block read, in one window."""
        gap_here = jnp.where(place == first, 0, gap)
        known = bound.context.scene[scene] + bound.context.action[action]
        known = known + bound.context.gap[gap_here]
        x = bound._input(vector[None, None], known, False)
        there = jnp.arange(context)
        seen = ((there >= first) & (there < place))[None, None]  # [1, 1, S]
        shared = jax.tree.map(lambda a: a[None], memories)
        none = [None] * bound.layers
        heads, own, states = bound._decode(x, place[None], seen, shared, none, False)

        def put(old, new):
            row = jnp.where(place < 0, context, place)
            return old.at[row].set(new[0, 0, 0], mode="drop")

        return heads[0, 0], jax.tree.map(put, memories, own), states

    heads, memories, states = jax.vmap(window)(state.memories, place, first)
    current = (entry // stride_of(context)) % len(place)
    past = bound.past(states[current])[0, 0]
    return FlowState(memories, state.past.at[entry % context].set(past), heads[current])


def flow_of(
    bound: FlowDecoder, state: FlowState, entries: jax.Array, horizon: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flow [T, D], keys and values [S, 2, H, d] of the label head for the last S entries, and [S]
    bool, which of them are real, after `entries` [] entries, at least one."""
    context = len(state.past)
    last = entries - 1
    place, first = _places(last, context)
    current = (last // stride_of(context)) % len(place)
    memories = jax.tree.map(lambda a: a[current][None], state.memories)
    mask = (jnp.arange(context) >= first[current])[None]
    flow = bound.continue_from(
        state.heads[None, None], memories, mask, horizon - 1, start=place[current][None]
    )
    entry = entries + jnp.arange(-context, 0)
    flat: Any = flow.reshape(horizon, -1)
    return unit(flat), state.past[entry % context], entry >= 0
