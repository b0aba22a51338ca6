"""The ranker against plain NumPy without padding; what a score may not depend on; its size."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from nif_jax.data.buckets import NUM_GAPS
from nif_jax.data.vocabulary import OOV
from nif_jax.models.embed import ItemEmbed, UserEmbed
from nif_jax.models.ranker import NUM_LENGTHS, Ranker, TargetAttention

N, SCENES, ACTIONS = 9, 3, 2
L, D, DG, T = 5, 4, 6, 3
REAL = (5, 3, 1, 0, 4, 2)  # entries of each history of the batch
ITEM_SIZES, USER_SIZES = {"id": 7, "genre": 5}, {"id": 6, "age": 3}
MODEL = Ranker(
    item_sizes=ITEM_SIZES,
    user_sizes=USER_SIZES,
    num_scenes=SCENES,
    num_actions=ACTIONS,
    dim=D,
    attention=(6, 3),
    tower=(8, 5),
    dropout=0.0,
    id_dropout=0.0,
    align_heads=2,
    align_dropout=0.0,
    calibration=3,
    statistics_widths=(6,),
)


@jax.jit
def apply(params, batch, items, generator_item_emb=None):
    """Logits and intermediates, always with shared pairs: fewer programs to compile."""
    return MODEL.apply({"params": params}, batch, items, generator_item_emb, False, True)


def score(params, batch, items, generator_item_emb=None):
    return np.asarray(apply(params, batch, items, generator_item_emb)[0])


@pytest.fixture(scope="module")
def batch_of(random_impressions):
    return functools.partial(
        random_impressions, real=REAL, length=L, items=N, scenes=SCENES, actions=ACTIONS
    )


@pytest.fixture(scope="module")
def generator_item_emb():
    vectors = np.random.default_rng(1).normal(size=(N + 1, DG)).astype(np.float32)
    vectors[0] = 0
    return vectors


@pytest.fixture(scope="module")
def base(random_params, batch_of, items):
    """Parameters of a ranker without a flow."""
    return random_params(2, MODEL.init, batch_of(3), items)


@pytest.fixture(scope="module")
def params(random_params, batch_of, items, generator_item_emb):
    """Parameters of a ranker with a flow and with the generator's items."""
    return random_params(2, MODEL.init, batch_of(3, flow=(T, DG)), items, generator_item_emb)


# The reference: one row, real entries only.


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def mlp(p, x):
    layers = [p[f"Dense_{i}"] for i in range(len(p))]
    for layer in layers[:-1]:
        x = np.maximum(dense(layer, x), 0)
    return dense(layers[-1], x)


def item_vector(p, items, generator_item_emb, item):
    total = np.zeros(D)
    for name, values in items.items():
        real = [p["items"][name][i] for i in values[item] if i]
        total += np.mean(real, axis=0) if real else 0
    return (
        total
        if generator_item_emb is None
        else total + dense(p["project_returned"], generator_item_emb[item])
    )


def reference_interest(p, target, keys):
    """Sum of keys [n, D] times the weight that an MLP gives to [q, k, q - k, q * k]."""
    from_key, from_product = np.split(p["from_pair"]["kernel"], 2)
    # With q A + k B + (q * k) C: the rows of q - k are zero, which any A and B can stand for.
    first = np.concatenate([p["from_target"]["kernel"], from_key, 0 * from_key, from_product])
    total = np.zeros(D)
    for key in keys:
        features = np.concatenate([target, key, target - key, target * key])
        hidden = np.maximum(features @ first + p["from_target"]["bias"], 0)
        total += mlp(p["score"], hidden)[0] * key
    return total / np.sqrt(max(len(keys), 1))


def reference_alignment(p, target, flow):
    query, keys, values = dense(p["query"], target), dense(p["key"], flow), dense(p["value"], flow)
    keys, values = keys + p["step"], values + p["step"]
    parts = []
    for part in np.split(np.arange(D), MODEL.align_heads):
        weights = np.exp(keys[:, part] @ query[part] / np.sqrt(len(part)))
        parts.append(weights @ values[:, part] / weights.sum())
    return dense(p["out"], np.concatenate(parts))


def reference(p, batch, items, generator_item_emb, row):
    """Logit and calibration score of one row."""
    target = item_vector(p, items, generator_item_emb, batch.item[row])
    history = [
        item_vector(p, items, generator_item_emb, item)
        + p["context"]["scene"][scene]
        + p["context"]["action"][action]
        + p["context"]["gap"][gap]
        for item, scene, action, gap, mask in zip(*(x[row] for x in batch.history), strict=True)
        if mask
    ]
    evidence = interest = reference_interest(p["interest"], target, history)
    fields = [
        p["user"]["id"][batch.user_features["id"][row]] * (batch.user_features["id"][row] != OOV),
        p["user"]["age"][batch.user_features["age"][row]],
        target,
        interest,
        p["context"]["scene"][batch.scene[row]],
        p["recency"][batch.recency[row]],
        p["length"][batch.history_length[row]],
    ]
    if batch.flow is not None:
        evidence = np.zeros(D)
        if batch.flow_mask[row]:
            evidence = reference_alignment(p["align"], target, batch.flow[row])
        fields.append(evidence)
    statistics = []
    if batch.statistics is not None:
        statistics = batch.statistics[row]
        fields.append(mlp(p["counts"], statistics))
    products = [a @ b for i, a in enumerate(fields) for b in fields[i + 1 :]]
    calibration = mlp(p["calibrator"], np.concatenate([evidence, target, evidence * target]))[0]
    return mlp(p["head"], np.concatenate([*fields, products, statistics]))[
        0
    ] + calibration, calibration


@pytest.mark.parametrize("with_flow", [False, True])
def test_ranker_equals_its_reference(base, params, batch_of, items, generator_item_emb, with_flow):
    batch = batch_of(3, flow=(T, DG) if with_flow else None)
    params, generator_item_emb = (params, generator_item_emb) if with_flow else (base, None)
    logits, named = apply(params, batch, items, generator_item_emb)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    expected = [reference(wide, batch, items, generator_item_emb, row) for row in range(len(REAL))]
    found = np.stack([logits, named["calibration"]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.std(found, axis=0).min() > 0.05


def test_count_features_are_a_field_and_an_input(random_params, batch_of, items):
    statistics = np.random.default_rng(7).normal(size=(len(REAL), 4)).astype(np.float32)
    batch = batch_of(3)._replace(statistics=statistics)
    params = random_params(2, MODEL.init, batch, items)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    expected = [reference(wide, batch, items, None, row)[0] for row in range(len(REAL))]
    np.testing.assert_allclose(score(params, batch, items), expected, rtol=1e-4, atol=1e-4)
    for column in range(4):
        changed = statistics + (np.arange(4) == column)
        other = score(params, batch._replace(statistics=changed.astype(np.float32)), items)
        assert np.abs(other - score(params, batch, items)).max() > 1e-3


def test_target_attention_is_din_on_q_k_difference_and_product():
    rng = np.random.default_rng(4)
    width, batch, length = 5, 3, 4
    target = rng.normal(size=(batch, D)).astype(np.float32)
    keys = rng.normal(size=(batch, length, D)).astype(np.float32)
    mask = np.array([[True] * 4, [False, True, True, True], [False] * 4])
    # DIN's first layer has rows for q, k, q - k and q * k.
    for_q, for_k, for_difference, for_product = rng.normal(size=(4, D, width)).astype(np.float32)
    bias, out = rng.normal(size=width).astype(np.float32), rng.normal(size=(width, 1))
    params = {
        "from_target": {"kernel": for_q + for_difference, "bias": bias},
        "from_pair": {"kernel": np.concatenate([for_k - for_difference, for_product])},
        "score": {"Dense_0": {"kernel": out.astype(np.float32), "bias": np.float32([0.3])}},
    }
    found = jax.jit(TargetAttention((width,)).apply)({"params": params}, target, keys, mask)
    first = np.concatenate([for_q, for_k, for_difference, for_product])
    q = np.broadcast_to(target[:, None], keys.shape)
    features = np.concatenate([q, keys, q - keys, q * keys], axis=-1)
    weights = (np.maximum(features @ first + bias, 0) @ out + 0.3)[..., 0] * mask
    expected = np.einsum("bl,bld->bd", weights, keys)
    # Up to a row's scale, which the reference above pins down.
    np.testing.assert_array_equal(found[2], 0)
    scale = found[:2] / expected[:2]
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:, :1], scale.shape), rtol=1e-4)
    assert (scale > 0).all()


def test_length_of_padding_does_not_change_a_score(base, batch_of, items):
    batch = batch_of(3)
    longer = jax.tree.map(lambda x: np.pad(x, ((0, 0), (3, 0))), batch.history)
    before = score(base, batch, items)
    after = score(base, batch._replace(history=longer), items)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_content_of_padding_does_not_change_a_score(base, batch_of, items):
    batch, rng = batch_of(3), np.random.default_rng(5)
    history = batch.history
    bounds = {"item": N + 1, "scene": SCENES + 1, "action": ACTIONS + 1, "gap": NUM_GAPS}
    garbage = history._replace(
        **{
            name: np.where(history.mask, getattr(history, name), rng.integers(1, high, (6, L)))
            for name, high in bounds.items()
        }
    )
    after = score(base, batch._replace(history=garbage), items)
    np.testing.assert_allclose(after, score(base, batch, items), rtol=1e-5, atol=1e-5)


def test_without_a_history_the_flow_says_nothing(params, batch_of, items, generator_item_emb):
    batch = batch_of(3, flow=(T, DG))
    before = score(params, batch, items, generator_item_emb)
    after = score(params, batch._replace(flow=batch.flow + 1), items, generator_item_emb)
    changed = np.abs(after - before) > 1e-3
    assert changed.tolist() == [real > 0 for real in REAL]


def test_rows_of_a_batch_do_not_meet(params, batch_of, items, generator_item_emb):
    batch, other = (batch_of(seed, flow=(T, DG)) for seed in (3, 6))
    before = score(params, batch, items, generator_item_emb)
    order = np.array([4, 2, 0, 5, 1, 3])
    shuffled = jax.tree.map(lambda x: x[order[: len(x)]], batch._replace(pair=batch.label))
    shuffled = shuffled._replace(pair=batch.pair)
    np.testing.assert_allclose(
        score(params, shuffled, items, generator_item_emb), before[order], rtol=1e-5, atol=1e-5
    )
    mixed = jax.tree.map(lambda a, b: np.concatenate([a[:2], b[2:]]), batch, other)
    after = score(params, mixed, items, generator_item_emb)
    np.testing.assert_allclose(after[:2], before[:2], rtol=1e-5, atol=1e-5)
    assert np.abs(after[2:] - before[2:]).min() > 1e-4


@pytest.mark.parametrize("with_flow", [False, True])
def test_shared_pairs_score_the_negative_with_the_positives_moveline(
    base, params, batch_of, items, generator_item_emb, with_flow
):
    batch = batch_of(3, flow=(T, DG) if with_flow else None)
    params, generator_item_emb = (params, generator_item_emb) if with_flow else (base, None)
    _, named = apply(params, batch, items, generator_item_emb)
    # The same by hand: give each negative (odd row) what its positive (the row before) has seen.
    source = np.array([0, 0, 2, 2, 4, 4])
    seen = batch._replace(
        history=jax.tree.map(lambda x: x[source], batch.history),
        flow=batch.flow[source] if with_flow else None,
        flow_mask=batch.flow_mask[source],
    )
    expected = apply(params, seen, items, generator_item_emb)[1]["calibration"]
    np.testing.assert_allclose(named["shared"], expected[1::2], rtol=1e-5, atol=1e-5)
    assert np.abs(named["shared"] - named["calibration"][1::2]).max() > 0.01


def test_item_embedding_from_the_catalogue_or_row_by_row(params, items, generator_item_emb):
    def embed(ids):
        return MODEL.apply(
            {"params": params}, ids, items, generator_item_emb, False, method="embed_items"
        )

    few, many = np.array([[3, 0, 9], [4, 8, 1]]), np.arange(40) % (N + 1)
    assert few.size < N + 1 <= many.size
    by_row, by_catalogue = embed(few), embed(many)
    np.testing.assert_allclose(by_row, by_catalogue[few], atol=1e-5)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    expected = [item_vector(wide, items, generator_item_emb, item) for item in range(N + 1)]
    np.testing.assert_allclose(by_catalogue[: N + 1], expected, atol=1e-5)


def test_item_embedding_of_padding_unknown_and_sets():
    tables = {"id": np.arange(12.0).reshape(4, 3), "genre": 100.0 + np.arange(9).reshape(3, 3)}
    items = {
        "id": np.array([[0], [2], [OOV], [OOV], [OOV]]),
        "genre": np.array([[0, 0], [1, 2], [2, 0], [2, 0], [0, 0]]),
    }
    model = ItemEmbed({"id": 4, "genre": 3}, 3)
    found = model.apply({"params": tables}, items, method="table")
    expected = [
        [0, 0, 0],  # padding
        tables["id"][2] + (tables["genre"][1] + tables["genre"][2]) / 2,  # the mean of a set
        tables["id"][OOV] + tables["genre"][2],
        tables["id"][OOV] + tables["genre"][2],  # unknown items of equal content are one
        tables["id"][OOV],  # no genre adds nothing, row 0 of the table included
    ]
    np.testing.assert_allclose(found, expected)


def test_an_unknown_user_has_a_profile_and_no_identity():
    model = UserEmbed(USER_SIZES, D)
    features = {"id": np.array([OOV, OOV + 1]), "age": np.array([2, 2])}
    params = model.init(jax.random.key(0), features)
    identity, profile = model.apply(params, features)
    np.testing.assert_array_equal(identity[0], 0)
    assert np.abs(identity[1]).min() > 0
    np.testing.assert_array_equal(profile[0], profile[1])


def test_dropout_acts_in_training_only(base, batch_of, items):
    model = dataclasses.replace(MODEL, dropout=0.5)
    batch = batch_of(3)

    @jax.jit
    def in_training(params, batch, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, batch, items, train=True, rngs=rngs)[0]

    first, again, other = (in_training(base, batch, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    # Otherwise it asks for no chance at all: there is none to be had here.
    jax.eval_shape(model.apply, {"params": base}, batch, items)


def parameter_count(profile, with_flow):
    embeddings = (7 + 5 + 6 + (3 if profile else 0)) * D  # items, users
    context = (SCENES + 1 + ACTIONS + 1 + NUM_GAPS) * D
    recency_and_length = (NUM_GAPS + NUM_LENGTHS) * D
    attention = (D * 6 + 6) + 2 * D * 6 + (6 * 3 + 3) + (3 + 1)
    calibrator = (3 * D * 3 + 3) + (3 + 1)
    fields = 6 + profile + with_flow
    width = fields * D + fields * (fields - 1) // 2
    tower = (width * 8 + 8) + (8 * 5 + 5) + (5 + 1)
    align = T * D + 2 * (D * D + D) + 2 * (DG * D + D) if with_flow else 0
    generator_item_emb = DG * D if with_flow else 0
    parts = (embeddings, context, recency_and_length, attention, calibrator, tower)
    return sum(parts) + align + generator_item_emb


@pytest.mark.parametrize("profile", [False, True])
@pytest.mark.parametrize("with_flow", [False, True])
def test_parameter_count(batch_of, items, generator_item_emb, profile, with_flow):
    users = USER_SIZES if profile else {"id": 6}
    model = dataclasses.replace(MODEL, user_sizes=users)
    batch = batch_of(3, flow=(T, DG) if with_flow else None)
    arguments = (batch, items, generator_item_emb) if with_flow else (batch, items)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    found = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert found == parameter_count(profile, with_flow)
