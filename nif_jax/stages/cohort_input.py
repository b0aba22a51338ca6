"""The generative half of GenCI in a ranker: what is generated, when anew, and what its loss is.

Letters: B batch, G beams, M history entries of a shard.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nif_jax.data.windows import Impressions
from nif_jax.losses.ctr import weighted_sum
from nif_jax.models.beam import Beams
from nif_jax.models.cohorts import CohortNetwork, DeepFm, Generated
from nif_jax.models.intent import Intent
from nif_jax.models.semantic_ids import SemanticIds
from nif_jax.stages.context import Context


@dataclasses.dataclass(frozen=True)
class CohortInput:
    """Where a ranker's cohorts come from, and what their generation pays.

    Attributes:
      intent: the model that generates, or None: no cohorts.
      beams: G; 0 generates nothing: the ranker gets the history's state only.
      gamma: weight of a row's next-item loss beside its cross-entropy.
      delta: weight of the self-supervised regularisation.
      fade: steps over which delta falls to 0, linearly; 0 = it stays what it is.
      targets: rows whose item is to be predicted: "positive", or "all" whatever the label (quirk).
      detach: whether the side head's probability is a fixed target; else it learns from the ranker
        too (a quirk).
      refresh: k; beams are generated anew in one of k training passes (see `remember`), 1 = in all.
      slots: (shards, M), history entries of a shard, what beams are remembered by where k > 1.
    """

    intent: Intent | None = None
    beams: int = 0
    gamma: float = 0.0
    delta: float = 0.0
    fade: int = 0
    targets: str = "positive"
    detach: bool = True
    refresh: int = 1
    slots: tuple[int, int] = (0, 0)

    def delta_at(self, step: jax.Array | None) -> jax.Array | float:
        """Weight of the regularisation in a step; of the first one where none is given."""
        if step is None or not self.fade:
            return self.delta
        return self.delta * jnp.maximum(0.0, 1 - step / self.fade)

    @property
    def remembers(self) -> bool:
        """Whether training keeps beams from pass to pass."""
        return self.refresh > 1 and self.beams > 0


def configured(
    run: Context, config: ConfigDict, steps: int, num_codes: int, num_digits: int
) -> tuple[CohortInput, CohortNetwork, DeepFm | None]:
    """The generative half of a ranker: intent model, cohort network, side head.

    Args:
      run: of the stage.
      config: of the variant.
      steps: of its training, over a share of which delta falls.
      num_codes: V; num_digits: K and the collision digit.
    """
    data, genci = run.dataset, config.genci
    intent = Intent(
        num_codes=num_codes,
        num_digits=num_digits,
        num_scenes=data.num_scenes,
        num_actions=data.num_actions,
        dtype=run.compute_dtype,
        **config.intent,
    )
    settings = dict(config.cohorts) | {"dtype": run.compute_dtype}
    levels = settings.pop("levels") or config.tokenizer.levels
    network = CohortNetwork(dim=config.ranker.dim, levels=levels, **settings)
    sizes = (genci.side, genci.side_dropout, run.compute_dtype)
    side = DeepFm(*sizes) if genci.delta > 0 else None
    names = ("beams", "gamma", "delta", "targets", "detach", "refresh")
    slots = (run.parallel.num_shards, data.stores.history_row.shape[1])
    fade = round(genci.delta_fade * steps)
    settings = {name: genci[name] for name in names}
    return CohortInput(intent, slots=slots, fade=fade, **settings), network, side


def _bind(source: CohortInput, params, rng=None):
    assert source.intent is not None
    rngs = {} if rng is None else {"dropout": rng}
    return source.intent.bind({"params": params["intent"]}, rngs=rngs)


def generate(source: CohortInput, params, constants, batch: Impressions) -> Generated | None:
    """The intent model's states and beams for each row; they depend on the history only."""
    if source.intent is None:
        return None
    bound = _bind(source, params)
    states, mask = bound.encode(batch.history, constants["ids"])
    beams = bound.generate(states, mask, constants["ids"], source.beams) if source.beams else None
    return Generated(states, mask, beams, constants.get("cohort_means"))


def generate_in_training(
    source: CohortInput,
    params,
    variables,
    constants,
    batch: Impressions,
    rng: jax.Array,
    train: bool,
    axis_name: str,
) -> tuple[Generated | None, Any]:
    """`generate` with dropout, and with beams that may be remembered; and variables after it."""
    if source.intent is None:
        return None, variables
    encode_rng, refresh_rng = jax.random.split(rng)
    bound = _bind(source, params, encode_rng)
    states, mask = bound.encode(batch.history, constants["ids"], train)
    if not source.beams:
        return Generated(states, mask, None), variables

    def search():
        return bound.generate(states, mask, constants["ids"], source.beams)

    if not source.remembers:
        return Generated(states, mask, search()), variables
    beams, memory = remember(
        source, search, variables["beams"], constants["ids"], batch, refresh_rng, axis_name
    )
    return Generated(states, mask, beams), variables | {"beams": memory}


def remember(
    source: CohortInput,
    search: Callable[[], Beams],
    memory: jax.Array,
    ids: SemanticIds,
    batch: Impressions,
    rng: jax.Array,
    axis_name: str,
) -> tuple[Beams, jax.Array]:
    """Beams generated anew with probability 1 / k, else those that were generated last.

    By chance instead of by count, so that no pass depends on how a step is cut into passes. Where
    a row of the pass has no beams yet, the pass generates.

    Args:
      source: its refresh is k.
      search: beam search for the batch.
      memory: [shards, M, G] items by the last entry of a history, 0 = none yet; the same on all
        devices.
      ids: the catalogue.
      batch: its entry says where its rows' beams are kept.
      rng: of chance.
      axis_name: of devices; each has one shard's rows.

    Returns:
      beams without scores, which no cohort depends on, and the memory after this pass.
    """
    kept = memory[jax.lax.axis_index(axis_name), batch.entry]  # [B, G]
    missing = (batch.flow_mask & (kept[:, 0] == 0)).any()
    items = jax.lax.cond(
        missing | jax.random.bernoulli(rng, 1 / source.refresh),
        lambda: items_of(search(), ids),
        lambda: kept,
    )
    # What has no history keeps no beams: its entry is past the end, and dropped.
    entry = jnp.where(batch.flow_mask, batch.entry, memory.shape[1])
    entries, found = jax.lax.all_gather((entry, items), axis_name)
    shard = jnp.arange(len(memory))[:, None]
    return beams_of(items, ids), memory.at[shard, entries].set(found, mode="drop")


def items_of(beams: Beams, ids: SemanticIds) -> jax.Array:
    """[B, G] int32 items of beams, 0 where a beam is none."""
    leaf = beams.node[..., -1]
    return jnp.where(beams.mask & (leaf >= 0), ids.item[jnp.maximum(leaf, 0)], 0)


def beams_of(items: jax.Array, ids: SemanticIds) -> Beams:
    """Beams of items [B, G], with scores 0."""
    score = jnp.zeros(items.shape)
    return Beams(ids.code[items], ids.node[items], score, items > 0)


def next_item_loss(
    source: CohortInput, params, constants, batch: Impressions, generated: Generated, rng
) -> tuple[jax.Array, jax.Array]:
    """Sum over target rows of the mean cross-entropy of the item's digits, and their number."""
    code = constants["ids"].code[batch.item]
    bound = _bind(source, params, rng)
    found = bound.log_likelihood(generated.states, generated.mask, code, True)
    # A user without a history says nothing about what comes next.
    weight = batch.weight * generated.mask.any(1)
    if source.targets == "positive":
        weight = weight * batch.label
    return weighted_sum(-found.mean(-1), weight)


def rank_generated(
    intent: Intent, width: int, constrained: bool, params, variables, constants, batch: Impressions
) -> dict[str, jax.Array]:
    """{"rank"} [B] of each row's item among the generated ones that the history does not hold.

    An item that was not generated ranks behind the catalogue; without constraint, a sequence that
    is no item takes its place in vain.
    """
    del variables
    ids, bound = constants["ids"], intent.bind({"params": params["intent"]})
    states, mask = bound.encode(batch.history, ids)
    beams = bound.generate(states, mask, ids, width, constrained)
    item = items_of(beams, ids)  # [B, G]
    seen = (item[..., None] == batch.history.item[:, None]).any(-1) & (item > 0)
    is_target = item == batch.item[:, None]
    counts = beams.mask & (~seen | is_target)
    place = jnp.cumsum(counts, axis=1)
    rank = jnp.where(is_target & beams.mask, place, len(ids.item) + 1).min(1)
    return {"rank": rank.astype(jnp.int32)}
