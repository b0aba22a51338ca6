"""Each baseline against plain NumPy without padding; what a score may not depend on; its size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nif_jax.data.buckets import NUM_GAPS, log2_bucket
from nif_jax.data.schema import ConfigError
from nif_jax.data.vocabulary import OOV
from nif_jax.data.windows import Impressions, Window
from nif_jax.models.baselines.dcn import CrossNetwork
from nif_jax.models.baselines.hstu import NUM_PLACES
from nif_jax.models.baselines.registry import BASELINES, make_baseline
from nif_jax.models.embed import second_order

N, SCENES, ACTIONS = 9, 3, 2
L, D = 5, 4
REAL = (5, 3, 1, 0, 4, 2)  # entries of each history of the batch
SIZES = {
    "item_sizes": {"id": 7, "genre": 5},
    "user_sizes": {"id": 6, "age": 3},
    "num_scenes": SCENES,
    "num_actions": ACTIONS,
}
SETTINGS = {
    "dim": D,
    "attention": (6, 3),
    "tower": (8, 5),
    "dropout": 0.0,
    "id_dropout": 0.0,
    "factors": 3,
    "cross_layers": 2,
    "encoder_layers": 2,
    "encoder_heads": 2,
    "encoder_dropout": 0.0,
}
F = 3  # count features
# Trees have no gradients and tests of their own.
NAMES = [name for name in BASELINES if name != "lightgbm"]
MODELS = {name: make_baseline(name, SIZES, SETTINGS) for name in NAMES}
READ_HISTORY = ("din", "sasrec", "hstu")
APPLY = {name: jax.jit(model.apply) for name, model in MODELS.items()}

every_model = pytest.mark.parametrize("name", NAMES)


def score(name, params, batch, items):
    return np.asarray(APPLY[name]({"params": params}, batch, items)[0])


@pytest.fixture(scope="module")
def batch(random_impressions):
    found = random_impressions(3, REAL, L, items=N, scenes=SCENES, actions=ACTIONS)
    statistics = np.random.default_rng(6).normal(size=(len(REAL), F))
    return found._replace(statistics=statistics.astype(np.float32))


@pytest.fixture(scope="module")
def params(random_params, batch, items):
    return {name: random_params(3, model.init, batch, items) for name, model in MODELS.items()}


# The references: one row, real entries only.


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def mlp(p, x):
    layers = [p[f"Dense_{i}"] for i in range(len(p))]
    for layer in layers[:-1]:
        x = np.maximum(dense(layer, x), 0)
    return dense(layers[-1], x)


def values_of(table, ids):
    real = [table[i] for i in ids if i]
    return np.mean(real, axis=0) if real else np.zeros(table.shape[1])


def fields_of(p, batch, items, row):
    """[F, D]: user id and age, item genre and id, scene."""
    user, item = batch.user_features, batch.item[row]
    return np.stack(
        [
            p["user"]["id"][user["id"][row]] * (user["id"][row] != OOV),
            p["user"]["age"][user["age"][row]],
            values_of(p["items"]["genre"], items["genre"][item]),
            values_of(p["items"]["id"], items["id"][item]),
            p["scene"][batch.scene[row]],
        ]
    )


def target_and_history(p, batch, items, row):
    """Candidate [D], and entries [n, D] with their context."""

    def vector(item):
        return sum(values_of(p["items"][name], ids[item]) for name, ids in items.items())

    entries = [
        vector(item)
        + p["context"]["scene"][scene]
        + p["context"]["action"][action]
        + p["context"]["gap"][gap]
        for item, scene, action, gap, mask in zip(*(x[row] for x in batch.history), strict=True)
        if mask
    ]
    return vector(batch.item[row]), np.reshape(entries, (-1, D))


def head_on(p, batch, row, target, found):
    ids, ages = (batch.user_features[n][row] for n in ("id", "age"))
    user = [p["user"]["id"][ids] * (ids != OOV), p["user"]["age"][ages]]
    scene = p["context"]["scene"][batch.scene[row]]
    fields = [*user, scene, target, found, target * found, batch.statistics[row]]
    return mlp(p["head"], np.concatenate(fields))[0]


def constant(p, batch, items, row):
    return p["logit"]


def counters(p, batch, items, row):
    return p["weight"] @ batch.statistics[row] + p["bias"]


def popularity(p, batch, items, row):
    return p["logit"][batch.item[row]]


def lr(p, batch, items, row):
    counts = batch.statistics[row] @ p["counts"]["kernel"][:, 0]
    return p["bias"] + sum(w[0] for w in fields_of(p["weights"], batch, items, row)) + counts


def fm(p, batch, items, row):
    v = fields_of(p["fields"], batch, items, row)
    pairs = sum(v[i] @ v[j] for i in range(len(v)) for j in range(i))
    return lr(p["first_order"], batch, items, row) + pairs


def deepfm(p, batch, items, row):
    v = fields_of(p["fields"], batch, items, row)
    pairs = sum(v[i] @ v[j] for i in range(len(v)) for j in range(i))
    deep = np.concatenate([v.reshape(-1), batch.statistics[row]])
    return lr(p["first_order"], batch, items, row) + pairs + mlp(p["deep"], deep)[0]


def dcn(p, batch, items, row):
    fields = fields_of(p["fields"], batch, items, row).reshape(-1)
    first = x = np.concatenate([fields, batch.statistics[row]])
    for layer in range(2):
        x = first * dense(p["cross"][f"Dense_{layer}"], x) + x
    return dense(p["from_cross"], x)[0] + mlp(p["deep"], first)[0]


def din(p, batch, items, row):
    target, history = target_and_history(p, batch, items, row)
    q = p["interest"]["from_target"]
    # The first layer's rows for q, k and q * k; those for q - k can be zero, see test_ranker.
    first = np.concatenate([q["kernel"], p["interest"]["from_pair"]["kernel"]])
    interest = np.zeros(D)
    for key in history:
        hidden = np.concatenate([target, key, key * target]) @ first + q["bias"]
        interest += mlp(p["interest"]["score"], np.maximum(hidden, 0))[0] * key
    interest /= np.sqrt(max(len(history), 1))
    return head_on(p, batch, row, target, interest)


def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def block(p, x):
    """Pre-norm block over x [n, D]; heads of width 2, so that a rotation is a complex factor."""
    heads, width, n = 2, D // 2, len(x)
    assert width == 2
    normed = norm(p["norm_attention"], x)
    query, key, value = (
        np.einsum("nd,dhe->nhe", normed, p[m]["kernel"]) + p[m]["bias"]
        for m in ("query", "key", "value")
    )
    turn = np.exp(1j * np.arange(n))[:, None]
    query, key = ((v[..., 0] + 1j * v[..., 1]) * turn for v in (query, key))
    mixed = np.zeros((n, heads, width))
    for position in range(n):
        for h in range(heads):
            scores = (query[position, h] * key[: position + 1, h].conj()).real / np.sqrt(width)
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed[position, h] = weights @ value[: position + 1, h]
    x = x + np.einsum("nhe,hed->nd", mixed, p["mix"]["kernel"]) + p["mix"]["bias"]
    return x + dense(p["down"], gelu(dense(p["up"], norm(p["norm_mlp"], x))))


def sasrec(p, batch, items, row):
    target, x = target_and_history(p, batch, items, row)
    state = np.zeros(D)
    if len(x):
        for layer in range(2):
            x = block(p[f"blocks_{layer}"], x)
        state = norm(p["norm"], x)[-1]
    return head_on(p, batch, row, target, state)


def silu(x):
    return x / (1 + np.exp(-x))


def hstu(p, batch, items, row):
    target, history = target_and_history(p, batch, items, row)
    x = np.concatenate([history, target[None]])
    age = [*batch.history.gap[row][batch.history.mask[row]], 0]
    for layer in range(2):
        own, out = p[f"layer_{layer}"], []
        u, v, q, k = np.split(silu(dense(own["in"], norm(own["norm_in"], x))), 4, axis=1)
        for i in range(len(x)):
            mixed = np.zeros(D)
            for j in range(i + 1):
                bias = own["by_place"][log2_bucket(np.array(i - j))] + own["by_age"][age[i], age[j]]
                for h in (slice(0, 2), slice(2, 4)):
                    mixed[h] += silu(q[i, h] @ k[j, h] + bias) * v[j, h] / (i + 1)
            out.append(dense(own["out"], norm(own["norm_out"], mixed) * u[i]))
        x = x + np.array(out)
    ids, ages = (batch.user_features[n][row] for n in ("id", "age"))
    user = [p["user"]["id"][ids] * (ids != OOV), p["user"]["age"][ages]]
    scene = p["context"]["scene"][batch.scene[row]]
    fields = [*user, scene, target, norm(p["norm"], x[-1]), batch.statistics[row]]
    return mlp(p["head"], np.concatenate(fields))[0]


FORMULAS = (constant, counters, popularity, lr, fm, deepfm, dcn, din, sasrec, hstu)
REFERENCES = {f.__name__: f for f in FORMULAS}


@every_model
def test_logits_equal_the_formula(name, params, batch, items):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params[name])
    expected = [REFERENCES[name](wide, batch, items, row) for row in range(len(REAL))]
    found = score(name, params[name], batch, items)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.std(found) > 0.05 or name == "constant"


def test_second_order_is_the_sum_over_pairs():
    fields = np.random.default_rng(0).normal(size=(3, 6, D))
    expected = [sum(v[i] @ v[j] for i in range(6) for j in range(i)) for v in fields]
    np.testing.assert_allclose(second_order(fields), expected, rtol=1e-5)
    # One field has no pair, and two have one.
    np.testing.assert_allclose(second_order(fields[:, :1]), 0, atol=1e-6)


def test_a_cross_layer_by_hand():
    cross = {"Dense_0": {"kernel": np.array([[1.0, 0], [2, 1]]), "bias": np.array([0.5, -1])}}
    # W x + b = [1 + 4 + .5, 2 - 1]; times x, plus x.
    found = CrossNetwork(1).apply({"params": cross}, np.array([[1.0, 2]]))
    np.testing.assert_allclose(found, [[5.5 + 1, 2 + 2]])


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_cross_layers_hold_products_of_one_feature_more(layers, random_params):
    x = np.random.default_rng(1).normal(size=(1, 3))
    model = CrossNetwork(layers)
    p = random_params(1, model.init, x) if layers else {}
    times = np.arange(layers + 3.0)[:, None]
    along = model.apply({"params": p}, times * x)
    # A polynomial of degree layers + 1 in the length of x: the next difference vanishes.
    assert np.abs(np.diff(along, n=layers + 1, axis=0)).max() > 1e-3
    np.testing.assert_allclose(np.diff(along, n=layers + 2, axis=0), 0, atol=1e-3)


def test_a_later_event_changes_no_earlier_state(params, batch, random_impressions):
    model = MODELS["sasrec"]
    encode = jax.jit(lambda p, v, h: model.apply({"params": p}, v, h, method="encode"))
    vectors = np.random.default_rng(4).normal(size=(len(REAL), L, D)).astype(np.float32)
    before = encode(params["sasrec"], vectors, batch.history)
    other = random_impressions(8, REAL, L, items=N, scenes=SCENES, actions=ACTIONS).history
    for place in range(L):
        late = np.arange(L) >= place
        changed = jax.tree.map(lambda a, b, late=late: np.where(late, b, a), batch.history, other)
        after = encode(params["sasrec"], np.where(late[:, None], -vectors, vectors), changed)
        difference, real = np.abs(after - before).max(-1), batch.history.mask
        np.testing.assert_array_equal(difference[real & ~late], 0)
        # Every real entry from there on sees the change.
        assert difference[real & late].min() > 1e-4


@every_model
def test_padding_does_not_change_a_score(name, params, batch, items):
    before, rng = score(name, params[name], batch, items), np.random.default_rng(5)
    longer = jax.tree.map(lambda x: np.pad(x, ((0, 0), (3, 0))), batch.history)
    bounds = {"item": N + 1, "scene": SCENES + 1, "action": ACTIONS + 1, "gap": NUM_GAPS}
    garbage = longer._replace(
        **{
            key: np.where(longer.mask, getattr(longer, key), rng.integers(1, high, (6, L + 3)))
            for key, high in bounds.items()
        }
    )
    after = score(name, params[name], batch._replace(history=garbage), items)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@every_model
def test_which_models_read_the_history(name, params, batch, items, random_window):
    other = random_window(9, REAL, L, items=N, scenes=SCENES, actions=ACTIONS)
    before = score(name, params[name], batch, items)
    changed = score(name, params[name], batch._replace(history=other), items) != before
    assert changed.tolist() == [name in READ_HISTORY and real > 0 for real in REAL]


@every_model
def test_gradients_reach_every_parameter(name, params, batch, items):
    def total(p):
        logits, _ = MODELS[name].apply({"params": p}, batch, items)
        return (logits * jnp.arange(1.0, 1 + len(REAL))).sum()

    found = jax.jit(jax.grad(total))(params[name])
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.abs(leaf).max() > 1e-6, path


TOWER = 8 + (8 * 5 + 5) + (5 + 1)  # all but the first layer's kernel
FEATURES = 7 + 5 + 6 + 3 + SCENES + 1
ENTRIES = FEATURES + ACTIONS + 1 + NUM_GAPS
BLOCK = 4 * (D * D + D) + (D * 2 * D + 2 * D) + (2 * D * D + D) + 4 * D
LAYER = 2 * D + 4 * (D * D + D) + NUM_PLACES + NUM_GAPS**2 + 2 * D + (D * D + D)
X = 5 * D + F
COUNTS = {
    "constant": 1,
    "counters": F + 1,
    "popularity": N + 1,
    "lr": FEATURES + 1 + F,
    "fm": FEATURES + 1 + F + FEATURES * 3,
    "deepfm": FEATURES + 1 + F + FEATURES * D + (5 * D + F) * 8 + TOWER,
    "dcn": FEATURES * D + 2 * (X**2 + X) + X + X * 8 + TOWER,
    "din": ENTRIES * D + (D * 6 + 6) + 2 * D * 6 + (6 * 3 + 3) + 4 + (6 * D + F) * 8 + TOWER,
    "sasrec": ENTRIES * D + 2 * BLOCK + 2 * D + (6 * D + F) * 8 + TOWER,
    "hstu": ENTRIES * D + 2 * LAYER + 2 * D + (5 * D + F) * 8 + TOWER,
}


@every_model
def test_parameter_count(name, params):
    assert sum(leaf.size for leaf in jax.tree.leaves(params[name])) == COUNTS[name]


@pytest.mark.parametrize("name", ["deepfm", "dcn", "din", "sasrec", "hstu"])
def test_dropout_acts_in_training_only(name, params, batch, items):
    model = make_baseline(name, {"dropout": 0.5}, SIZES, SETTINGS)

    @jax.jit
    def in_training(p, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": p}, batch, items, train=True, rngs=rngs)[0]

    first, again, other = (in_training(params[name], seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    # Otherwise it asks for no chance at all: there is none to be had here.
    jax.eval_shape(model.apply, {"params": params[name]}, batch, items)


@every_model
def test_the_calibration_score_is_the_logit(name, params, batch, items):
    logits, named = APPLY[name]({"params": params[name]}, batch, items)
    np.testing.assert_array_equal(named["calibration"], logits)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'din'"):
        make_baseline("dinn", SIZES, SETTINGS)


def test_hstu_overfits_100_users():
    """From the order of a history alone: labels are random, and no user's id is read."""
    rng = np.random.default_rng(0)
    rows, length = 100, 8
    item = rng.integers(1, 30, (rows, length)).astype(np.int32)
    history = Window(item, *(np.ones_like(item) for _ in range(3)), np.ones(item.shape, bool))
    label = rng.integers(0, 2, rows).astype(np.float32)
    ones = np.ones(rows, np.int32)
    users = {"id": ones, "age": ones}
    batch = Impressions(
        *(ones, ones, label, label, users, ones, ones, history, ones, None, ones > 0, None, label)
    )
    items = {"id": np.arange(1, 32, dtype=np.int32)[:, None]}
    sizes = dict(SIZES, item_sizes={"id": 33})
    model = make_baseline("hstu", {"dim": 16, "tower": (16,)}, sizes, SETTINGS)
    params = jax.jit(model.init)(jax.random.key(0), batch, items)["params"]
    optimizer = optax.adam(1e-2)

    def loss(p):
        logits, _ = model.apply({"params": p}, batch, items)
        return optax.sigmoid_binary_cross_entropy(logits, label).mean()

    @jax.jit
    def step(p, state):
        value, gradient = jax.value_and_grad(loss)(p)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(p, updates), state, value

    state = optimizer.init(params)
    for _ in range(200):
        params, state, value = step(params, state)
    assert value < 0.1
