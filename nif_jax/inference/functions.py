"""Pure functions of a restored variant: arrays in, flows and logits out.

Letters: G requests, R candidates, I rows of items (see serving/programs.py), C windows of a
request, S context, T horizon, D width.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nif_jax.data.buckets import gap_bucket
from nif_jax.data.chunks import stride_of
from nif_jax.data.windows import Impressions, Window
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.flow_step import FlowState, add_event, empty_state, flow_of
from nif_jax.serving.programs import Programs, StatePrograms
from nif_jax.stages.cohort_input import CohortInput, items_of
from nif_jax.stages.flow_input import FlowInput, current_generator

Arrays = Mapping[str, Any]
"""{"params", "variables", "constants"} of a variant; constants with what `prepare` gives."""


@dataclasses.dataclass(frozen=True)
class Functions:
    """Of one variant.

    Attributes:
      predict_candidates: see Stage.
      generator: the flow generator, or None.
      flow: what the ranker reads of it.
      cohorts: the generative half of a variant with cohorts.
      dtype: that flows are rounded to, as those of a cache are.
    """

    predict_candidates: Callable[..., Mapping[str, jax.Array]]
    generator: FlowDecoder | None
    flow: FlowInput
    cohorts: CohortInput
    dtype: Any

    def current_generator(self, arrays: Arrays) -> tuple[Any, jax.Array]:
        """Parameters of the generator, and its unit item vectors [I, D]."""
        given = (arrays["params"], arrays["constants"])
        return current_generator(self.generator, self.flow, *given)

    def generate(self, arrays: Arrays, history: Window, width: int) -> jax.Array:
        """[G, width] int32 items that beam search gives for histories, best first; 0 = none."""
        assert self.cohorts.intent is not None
        ids = arrays["constants"]["ids"]
        bound = self.cohorts.intent.bind({"params": arrays["params"]["intent"]})
        states, mask = bound.encode(history, ids)
        return items_of(bound.generate(states, mask, ids, width), ids)

    def flows(
        self, arrays: Arrays, windows: Window, entries: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the generator gives after the last entry of each moveline.

        Args:
          arrays: of the variant.
          windows: [G * C, S], see requests.encode.generator_windows.
          entries: [G] int32 length of the moveline, however long.

        Returns:
          [G, T, D] unit states, [G, S, 2, H, d] keys and values of the label head for the last S
          entries, and [G, S] bool, which of them are real. Of no meaning without an entry.
        """
        assert self.generator is not None
        weights, vectors = self.current_generator(arrays)
        bound, items = self.generator.bind({"params": weights}), arrays["constants"]["items"]
        context = windows.item.shape[1]
        shaped = jax.tree.map(lambda x: x.reshape(entries.shape[0], -1, context), windows)
        last = jax.tree.map(lambda x: x[:, 0], shaped)
        rolled, past = bound.roll_out(last, items, self.flow.horizon, 1, vectors)
        count, mask = shaped.item.shape[1], last.mask
        if count > 1:
            others = jax.tree.map(lambda x: x[:, 1:].reshape(-1, context), shaped)
            _, named = bound(others, items, vectors=vectors)
            earlier = named["past"].reshape(entries.shape[0], count - 1, *past.shape[1:])
            past = jnp.concatenate([past[:, None], earlier], axis=1)
            past, mask = _last_of_chunks(past, entries)
        return self.rounded(rolled[:, 0], past, mask)

    def rounded(self, flow: jax.Array, past: jax.Array, mask: jax.Array):
        """What `flows` returns, as a cache has it."""
        flow, past = (x.astype(self.dtype).astype(jnp.float32) for x in (flow, past))
        return flow, past, mask

    def with_flow(
        self, batch: Impressions, flow: jax.Array, past: jax.Array, mask: jax.Array
    ) -> Impressions:
        """The batch [G] with what the ranker reads of the generator; one row serves all G."""

        def of_all(x):
            return jnp.broadcast_to(x, (batch.scene.shape[0], *x.shape[1:]))

        batch = batch._replace(flow=of_all(flow))
        if self.flow.uses_label_head(train=False):
            batch = batch._replace(past=of_all(past), past_mask=of_all(mask))
        return batch

    def logits(
        self,
        arrays: Arrays,
        batch: Impressions,
        item: jax.Array,
        owner: jax.Array,
        statistics: jax.Array | None,
    ) -> jax.Array:
        """[R] logits before calibration.

        Args:
          arrays: of the variant.
          batch: [G], with flow, past and past_mask where the variant reads them.
          item: [R] candidates.
          owner: [R] requests of the candidates.
          statistics: [R, F] of the candidates, or None.
        """
        if statistics is not None:
            batch = batch._replace(statistics=statistics.astype(jnp.float32))
        given = (arrays["params"], arrays["variables"], arrays["constants"])
        return self.predict_candidates(*given, batch, item, owner)["logit"]

    def score(
        self,
        arrays: Arrays,
        batch: Impressions,
        entries: jax.Array,
        windows: Window | None,
        owner: jax.Array,
        item: jax.Array,
        statistics: jax.Array | None,
    ) -> jax.Array:
        """[R] logits before calibration; arguments as in requests.encode.Encoded."""
        if windows is not None:
            batch = self.with_flow(batch, *self.flows(arrays, windows, entries))
        return self.logits(arrays, batch, item, owner, statistics)

    def item_vectors(self, arrays: Arrays) -> jax.Array:
        """[I, D] the generator's unit vectors; row N + 1 is that of an unknown item."""
        return self.current_generator(arrays)[1]

    def embed_items(self, arrays: Arrays, items: Mapping[str, jax.Array]) -> jax.Array:
        """[n, D] the generator's unit vectors of items with these features [n, M]."""
        assert self.generator is not None
        bound = self.generator.bind({"params": self.current_generator(arrays)[0]})
        return jnp.asarray(bound.vectors(items))

    def empty_state(self, context: int) -> FlowState:
        """The generator's state before the first event, S = `context`."""
        assert self.generator is not None
        return empty_state(self.generator, context)

    def add_event(self, arrays: Arrays, state: FlowState, entry: jax.Array) -> FlowState:
        """The state after one more entry [6], see serving.state.append."""
        assert self.generator is not None
        weights, vectors = self.current_generator(arrays)
        number, item, scene, action, seconds, known = entry
        bound, gap = self.generator.bind({"params": weights}), gap_bucket(seconds, known)
        return add_event(bound, state, number, vectors[item], scene, action, gap)

    def flow_of_state(
        self, arrays: Arrays, state: FlowState, entries: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What `flows` returns, for G = 1, after `entries` [] entries, at least one."""
        assert self.generator is not None
        bound = self.generator.bind({"params": self.current_generator(arrays)[0]})
        found = self.rounded(*flow_of(bound, state, entries, self.flow.horizon))
        flow, past, mask = (x[None] for x in found)
        return flow, past, mask

    def score_with_flow(
        self,
        arrays: Arrays,
        flow: jax.Array,
        past: jax.Array,
        mask: jax.Array,
        batch: Impressions,
        owner: jax.Array,
        item: jax.Array,
        statistics: jax.Array | None,
    ) -> jax.Array:
        """[R] logits before calibration; flow, past and mask are those of one row or of all G."""
        batch = self.with_flow(batch, flow, past, mask)
        return self.logits(arrays, batch, item, owner, statistics)

    def compiled(self, context: int, chunked: bool) -> Programs:
        """The functions for a Model; arguments as in requests.encode.Encoder."""
        score, generate = jax.jit(self.score), None
        if self.cohorts.intent is not None:
            generate = jax.jit(self.generate, static_argnums=2)
        if self.generator is None:
            return Programs(score, generate=generate)
        state = StatePrograms(
            empty=functools.partial(self.empty_state, context),
            update=jax.jit(self.add_event, donate_argnums=1),
            flow=jax.jit(self.flow_of_state),
            score=jax.jit(self.score_with_flow),
        )
        of_items = jax.jit(self.item_vectors), jax.jit(self.embed_items)
        state_or_none = state if chunked else None
        return Programs(score, jax.jit(self.flows), *of_items, state_or_none, generate)


def _last_of_chunks(past: jax.Array, entries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last S entries of movelines, each as the window gives it that adds it.

    Args:
      past: [G, C, S, ...] of windows that add the last entries, the last window first.
      entries: [G] entries of the movelines.

    Returns:
      [G, S, ...] and [G, S] bool, which of them are real.
    """
    context = past.shape[2]
    stride = stride_of(context)
    entry = entries[:, None] + jnp.arange(-context, 0)  # [G, S]
    mask = entry >= 0
    entry = jnp.maximum(entry, 0)
    back = (entries[:, None] - 1) // stride - entry // stride
    end = jnp.minimum(entries[:, None], (entry // stride + 1) * stride)
    group = jnp.arange(entries.shape[0])[:, None]
    return past[group, jnp.maximum(back, 0), context - jnp.maximum(end - entry, 1)], mask
