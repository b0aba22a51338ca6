"""The tokenizer: an RQ-VAE trained to rebuild items' content from K codes (method.md, 2.1)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.data.sampling import ItemPlan
from nif_jax.losses.ctr import weighted_sum
from nif_jax.metrics import codebook
from nif_jax.models.collisions import resolve_collisions
from nif_jax.models.initialize import init_params
from nif_jax.models.quantizer import (
    Codebooks,
    RqVae,
    encode_catalogue,
    fit_codebooks,
    update_codebooks,
)
from nif_jax.stages.context import Context
from nif_jax.stages.step_counts import log_steps, loop_settings, make_optimizer, per_device
from nif_jax.training.devices.base import AXIS
from nif_jax.training.stage import Aux, Evaluation, Stage


@dataclasses.dataclass(frozen=True)
class Codes:
    """How codes learn.

    Attributes:
      form: "ema" (moving averages, no gradient) or "straight_through" (parameters, pulled to the
        residuals that take them).
      levels: K.
      codes: V.
      commitment: weight of the pull of the latent towards its codes.
      decay: of the moving averages.
      dead_share: see quantizer.update_codebooks.
      batch: rows of a step over all devices, which k-means scales the running counts to.
      seed: of k-means.
    """

    form: str
    levels: int
    codes: int
    commitment: float
    decay: float
    dead_share: float
    batch: int
    seed: int


def vectors_of(params: Mapping[str, Any], variables: Mapping[str, Any]) -> jax.Array:
    """[K, V, d] codebooks, wherever they learn."""
    return params["codebooks"] if "codebooks" in params else variables["codebooks"].vectors


def loss(
    model: RqVae,
    spec: Codes,
    axis_name: str | None,
    params,
    variables,
    constants,
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
    step: jax.Array | None,
):
    """Sum over items of squared error (mean over content) + commitment, see Stage.loss_fn."""
    del step
    content, weight = constants["content"][batch["item"]], batch["weight"]
    vectors = vectors_of(params, variables)
    rebuilt, commitment, found = model.bind({"params": params})(content, vectors)
    error = ((rebuilt - content) ** 2).mean(-1)
    losses = error + spec.commitment * commitment / model.dim
    if spec.form == "straight_through":
        pull = (jax.lax.stop_gradient(found.residuals) - found.chosen) ** 2
        losses += pull.sum((-1, -2)) / model.dim
    else:
        books = update_codebooks(
            variables["codebooks"],
            jax.lax.stop_gradient(found),
            weight,
            rng,
            decay=spec.decay,
            dead_share=spec.dead_share,
            axis_name=axis_name,
        )
        variables = {"codebooks": books}
    total, rows = weighted_sum(losses, weight)
    value, _ = weighted_sum(error, weight)
    return total, Aux(rows, variables, {"reconstruction": (value, rows)})


def init(model: RqVae, spec: Codes, rng: jax.Array, batch, constants):
    """Encoder and decoder at random; codebooks by residual k-means of the encoded catalogue."""
    del batch
    content = jnp.asarray(constants["content"])[1:]
    vectors = jnp.zeros((spec.levels, spec.codes, model.dim))
    params = dict(init_params(model, rng, *jax.eval_shape(lambda: (content, vectors))))
    latent = jax.jit(functools.partial(model.apply, method="encode"))({"params": params}, content)
    books = fit_codebooks(np.asarray(latent), spec.levels, spec.codes, spec.batch, spec.seed)
    if spec.form == "straight_through":
        return params | {"codebooks": books.vectors}, {}
    return params, {"codebooks": Codebooks(*books)}


def codes_of(model: RqVae, params, variables, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] nearest codes in 0..V-1 of content [N + 1, C], padding left out; and the same with
    collisions resolved."""
    vectors = np.asarray(vectors_of(params, variables))
    latent, nearest = encode_catalogue(model, params, vectors, content[1:])
    return nearest, resolve_collisions(latent, vectors, nearest)


@functools.partial(jax.jit, static_argnums=0)
def _rebuild(model: RqVae, params, vectors, content):
    rebuilt, _, found = model.bind({"params": params})(content, vectors)
    return rebuilt, found.codes


def evaluate(model: RqVae, params, variables, content: np.ndarray) -> dict[str, float]:
    """ "r2", share of the content's variance that the codes rebuild; "usage", least share of a
    level's codes that items use; "collision_rate"."""
    rebuilt, codes = _rebuild(model, params, vectors_of(params, variables), content[1:])
    residual = float(((np.asarray(rebuilt) - content[1:]) ** 2).sum())
    total = float(((content[1:] - content[1:].mean(0)) ** 2).sum())
    levels = codebook.summarize(np.asarray(codes), vectors_of(params, variables).shape[1])
    return {
        "r2": 1 - residual / max(total, 1e-12),
        "usage": min(level["codes"] / level["fillable"] for level in levels),
        "collision_rate": levels[-1]["collision_rate"],
    }


def rq_vae(run: Context) -> RqVae:
    """The configured tokenizer."""
    section = run.config.tokenizer
    return RqVae(run.content.shape[1], section.dim, section.hidden)


def make(run: Context) -> Stage:
    """The stage `tokenizer`."""
    run = run.for_stage("tokenizer")
    config, section = run.config, run.config.tokenize
    names = ("form", "levels", "codes", "commitment", "decay", "dead_share")
    settings = {name: config.tokenizer[name] for name in names}
    model = rq_vae(run)
    spec = Codes(**settings, batch=section.batch_size, seed=run.seed)
    shards = run.parallel.num_shards
    plan = ItemPlan(run.dataset.movelines.num_items, per_device(run, section), shards, run.seed)

    def evaluate_codes(params, variables):
        params, variables = run.parallel.unreplicate((params, variables))
        return Evaluation(evaluate(model, params, variables, run.content))

    log_steps(run, "tokenizer", "tokenize", section, plan)
    return Stage(
        name="tokenizer",
        init=functools.partial(init, model, spec),
        gather=lambda arrays, index: index,
        loss_fn=functools.partial(loss, model, spec, AXIS),
        plan=plan,
        evaluate=evaluate_codes,
        optimizer=make_optimizer(run, section, plan),
        metric=section.metric,
        config=config.to_dict(),
        settings=loop_settings(section, plan),
        data=run.place(content=run.content),
    )
