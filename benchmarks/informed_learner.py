"""What a simulated user's past says: the clicks foretold by one who knows the world, not the users.

    python -m benchmarks.informed_learner [--settings=source.drift=0.1,...] [--users=200]

This learner knows items, scenes and the law of drift of the simulator (nif_jax/data/simulator.py),
and infers each user's interests from the labels before the test period, by annealed sequential
Monte Carlo. Between its score and the Bayes bound lies what no model can know; between a model's
and its own, what the model has not learned of the world or of using a past.

One core takes about half a second for a user.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from configs import nif
from nif_jax.data import sources, splits
from nif_jax.data.dataset import Dataset
from nif_jax.data.schema import NO_LABEL, ConfigError
from nif_jax.data.simulator import DAY, START, World
from nif_jax.metrics import ctr
from nif_jax.models.baselines.popularity import click_logits
from nif_jax.models.flow import unit
from nif_jax.reports.tables import bayes_shares
from nif_jax.stages import context
from nif_jax.training.devices.pmap import Pmap

flags.DEFINE_string("settings", "", "What follows --config=configs/nif.py:synthetic, elsewhere.")
flags.DEFINE_integer("users", 200, "Test users, the first ones.", 1)
flags.DEFINE_integer("particles", 64, "Guesses of a user's interests.", 2)
FLAGS = flags.FLAGS

_TEMPERATURES = np.geomspace(0.01, 1.0, 25)
_MOVES = 6  # Metropolis steps at each temperature
_STEPS = (0.02, 0.6)  # least and largest step on the sphere, radians


def turn_of(world: World) -> np.ndarray:
    """[D, D] the one J of a shared law, b_k = a_k J; raises ConfigError under another law."""
    a, b = (world.planes[:, :, i].reshape(-1, world.planes.shape[-1]) for i in (0, 1))
    turn = np.linalg.lstsq(a, b, rcond=None)[0]
    if not np.allclose(a @ turn, b, atol=1e-6):
        raise ConfigError("the informed learner knows the law of drift: use source.law=shared.")
    return turn


def make_learner(world: World, particles: int) -> Callable[..., jax.Array]:
    """(key, item, scene, day, label, past) [E] of one user -> [E] click probabilities.

    Items and scenes count from 0, `past` is 1. where the label is known. Probabilities are means
    over interests a_k that are drawn from their posterior given the past.
    """
    as_float = functools.partial(jnp.asarray, dtype=jnp.float32)
    turn, items = as_float(turn_of(world)), as_float(world.item_vectors)
    pulls = as_float(world.pull * world.scene_vectors)
    _, interests, _, dim = world.planes.shape

    def log_odds(a, item, scene, day):
        """[P, E] of a click, with interests a [P, K, D] at START; World.log_odds is the same."""
        angle = (world.drift * day)[:, None, None]
        now = jnp.cos(angle) * a[:, None] + jnp.sin(angle) * (a @ turn)[:, None]
        near = jnp.einsum("pekd,ed->pek", unit(now + pulls[scene][:, None]), items[item]).max(-1)
        return (near - world.threshold) / world.noise

    def learner(key, item, scene, day, label, past):
        def evidence(a):
            logit = log_odds(a, item, scene, day)
            return (past * jax.nn.log_sigmoid(jnp.where(label > 0, logit, -logit))).sum(-1)

        def move(temperature, state, key):
            """A step of random length for each particle and a random half of its interests."""
            a, before = state
            keys = jax.random.split(key, 4)
            low, high = np.log(_STEPS)
            step = jnp.exp(jax.random.uniform(keys[0], (particles, 1, 1), minval=low, maxval=high))
            moved = jax.random.bernoulli(keys[1], 0.5, (particles, interests, 1))
            other = unit(a + step * moved * jax.random.normal(keys[2], a.shape) / np.sqrt(dim))
            after = evidence(other)
            odds = temperature * (after - before)
            taken = jnp.log(jax.random.uniform(keys[3], (particles,))) < odds
            return (jnp.where(taken[:, None, None], other, a), jnp.where(taken, after, before))

        def anneal(state, inputs):
            (a, found), (temperature, rise, key) = state, inputs
            keys = jax.random.split(key, _MOVES + 1)
            chosen = jax.random.categorical(keys[0], rise * found, shape=(particles,))
            step = functools.partial(move, temperature)
            state, _ = jax.lax.scan(
                lambda s, k: (step(s, k), None), (a[chosen], found[chosen]), keys[1:]
            )
            return state, None

        first, *keys = jax.random.split(key, len(_TEMPERATURES) + 1)
        a = unit(jax.random.normal(first, (particles, interests, dim)))
        rises = np.diff(_TEMPERATURES, prepend=0.0)
        inputs = as_float(_TEMPERATURES), as_float(rises), jnp.stack(keys)
        (a, _), _ = jax.lax.scan(anneal, (a, evidence(a)), inputs)
        return jax.nn.sigmoid(log_odds(a, item, scene, day)).mean(0)

    return learner


def foretell(data: Dataset, world: World, users: int, particles: int) -> tuple[np.ndarray, ...]:
    """Test rows [R] of the first test users and the learner's click probabilities [R] of them."""
    lines = data.movelines
    labelled = lines.label != NO_LABEL
    rows = np.flatnonzero(labelled & (data.split == splits.TEST))
    chosen = np.unique(lines.user[rows])[:users]
    rows = rows[np.isin(lines.user[rows], chosen)]
    events = np.flatnonzero(np.isin(lines.user, chosen))
    events = events[np.lexsort((lines.time[events], lines.user[events]))]
    line = np.searchsorted(chosen, lines.user[events])
    place = np.arange(len(events)) - np.searchsorted(line, line)

    def lay(values):
        table = np.zeros((len(chosen), place.max() + 1), np.asarray(values).dtype)
        table[line, place] = values
        return table

    past = (labelled & (data.split != splits.TEST))[events].astype(np.float32)
    day = ((lines.time[events] - START) / DAY).astype(np.float32)
    tables = [
        lay(x)
        for x in (lines.item[events] - 1, lines.scene[events] - 1, day, lines.label[events], past)
    ]
    learner = make_learner(world, particles)
    keys = jax.random.split(jax.random.key(0), len(chosen))
    found = jax.jit(lambda inputs: jax.lax.map(lambda x: learner(*x), inputs))((keys, *tables))
    probability = np.zeros(lines.num_events, np.float64)
    probability[events] = np.asarray(found)[line, place]
    return rows, probability[rows]


def main(argv: list[str]) -> None:
    """Prints AUC, LogLoss and the share of the Bayes gap, with the histories of the frozen kind."""
    del argv
    config = nif.get_config(f"synthetic,{FLAGS.settings}".rstrip(","))
    data = context.load_dataset(config, Pmap())
    lines = data.movelines
    world = sources.world(config.data.source, lines, seed=config.data.seed, **config.source)
    rows, probability = foretell(data, world, FLAGS.users, FLAGS.particles)
    train = (data.split == splits.TRAIN) & (lines.label != NO_LABEL)
    popular = click_logits(
        lines.item[train], lines.label[train], lines.num_items, config.baselines.prior
    )
    assert lines.truth is not None
    logits = {
        "popularity": popular[lines.item[rows]],
        "informed learner": np.log(probability) - np.log1p(-probability),
        "bayes": lines.truth[rows],
    }
    found = {
        name: ctr.evaluate(lines.label[rows], logit, lines.user[rows])
        for name, logit in logits.items()
    }
    by_seed = {name: {0: values} for name, values in found.items()}
    print(f"{len(rows)} test impressions of {len(np.unique(lines.user[rows]))} users, frozen")
    print(f"{'':16s} {'AUC':>6s} {'LogLoss':>8s} {'share of the Bayes gap':>23s}")
    for name, values in found.items():
        (share,) = bayes_shares(by_seed[name], by_seed["popularity"], by_seed["bayes"])
        print(f"{name:16s} {values['auc']:6.4f} {values['logloss']:8.4f} {share:23.2f}")


if __name__ == "__main__":
    app.run(main)
