"""Trees give what LightGBM's own prediction gives, for any trees that it grows."""

import jax
import numpy as np
import pytest

from nif_jax.models.baselines.interface import Examples, FitData
from nif_jax.models.baselines.lightgbm import BLOCK, Trees, as_arrays, columns

lightgbm = pytest.importorskip("lightgbm")
F = 6


def examples(random, rows, weight):
    statistics = random.normal(size=(rows, F)).astype(np.float16)
    scene, age = random.integers(1, 4, rows), random.integers(0, 9, rows)
    score = statistics.astype(float) @ weight + (scene == 2) + 0.2 * age
    label = (random.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int8)
    return Examples(np.ones(rows, np.int32), scene, {"id": scene, "age": age}, statistics, label)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    weight = random.normal(size=F)
    parts = (examples(random, rows, weight) for rows in (6000, 2000))
    settings = {"num_trees": 130, "leaves": 31}
    return FitData(*parts, num_items=1, statistics=None, settings=settings, seed=0)


def score(model, params, rows):
    return np.asarray(jax.jit(lambda p, r: model.apply({"params": p}, r, None))(params, rows)[0])


def test_scores_are_those_of_the_library(data):
    params = Trees.fit(data)
    assert 1 < params["number"] <= 130
    model = Trees(num_trees=130, leaves=31)
    shapes = jax.eval_shape(model.init, jax.random.key(0), data.validation, None)["params"]
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(np.shape, params)
    train = lightgbm.Dataset(columns(data.train), data.train.label)
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 31, "min_data_in_leaf": 5, "verbose": -1}, train, 120
    )
    expected = booster.predict(columns(data.validation), raw_score=True)
    found = score(model, as_arrays(booster, 130, 31), data.validation)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_learns_what_the_labels_follow(data):
    found = score(Trees(130, 31), Trees.fit(data), data.validation)
    label = data.validation.label
    loss = np.mean(np.logaddexp(0, np.where(label == 1, -found, found)))
    rate = label.mean()
    assert loss < 0.9 * -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def test_a_model_without_trees_is_zero(data):
    model = Trees(num_trees=BLOCK, leaves=4)
    params = model.init(jax.random.key(0), data.validation, None)["params"]
    assert (score(model, params, data.validation) == 0).all()


def test_no_gradient_reaches_the_trees(data):
    params, model = jax.device_put(Trees.fit(data)), Trees(num_trees=130, leaves=31)
    rows = jax.tree.map(lambda x: x[:50], data.validation)
    gradient = jax.grad(lambda p: model.apply({"params": p}, rows, None)[0].sum())(params)
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))
