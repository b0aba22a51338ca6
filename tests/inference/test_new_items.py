"""Items that the run has not seen are scored by their features."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nif_jax import serving
from nif_jax.data.schema import DataError
from nif_jax.data.vocabulary import OOV
from nif_jax.inference import command
from nif_jax.requests import files
from nif_jax.requests.objects import RequestError, as_table
from nif_jax.serving.programs import SPARE_ITEMS, replaced_arrays
from tests.inference.period import given

CLOSE = 1e-5


def features_of(model, item):
    """Values of the features of an item of the run's data."""
    lines = model.run.dataset.movelines
    row = 1 + list(lines.vocabulary["item"]).index(item)
    return {
        name: [str(lines.vocabulary[f"item/{name}"][n - 1]) for n in ids[row] if n]
        for name, ids in lines.item_features.items()
    }


@pytest.fixture(scope="module")
def twins(load):
    """variant -> the model with a twin of each of some items: another id, the same features."""

    def of(variant):
        model = load(variant)
        items = {f"new {item}": features_of(model, item) for item in model.vocabulary.item[:9]}
        return serving.with_items(model, items)

    return of


def requests_for(model, items):
    """Requests whose movelines have new items too."""
    found = []
    for request in given(model.run, "online")[:20]:
        line = [
            dataclasses.replace(event, item_id=f"new {event.item_id}") if n % 3 == 0 else event
            for n, event in enumerate(request.moveline)
        ]
        found.append(dataclasses.replace(request, items=items, moveline=line))
    return found


def test_features_of_a_new_item_are_encoded_as_those_of_a_known_one(load, twins):
    model = twins("base")
    items = list(model.vocabulary.item[:9])
    request = given(model.run, "online")[20]
    tables = [
        model.features.table(model.number(dataclasses.replace(request, items=some)))[0]
        for some in (items, [f"new {item}" for item in items])
    ]
    for name in tables[0].column_names:
        own = "item/id" in name or "item age" in name or re.search(r"(/|and )item ", name)
        if not own:  # values of features, and count features of them, of the user and of the scene
            assert tables[0][name].equals(tables[1][name]), name
    assert tables[1]["item/id"].null_count == len(items)
    assert tables[0]["item/style"].combine_chunks().flatten().null_count == 0
    assert model.encoder is not load("base").encoder
    assert load("base").number(dataclasses.replace(request, items=["new 0"])).item == [31]


def test_a_known_item_whose_own_embedding_is_that_of_unknown_ones_has_the_logit_of_its_twin(twins):
    model = twins("base")
    table = "['constants']['items']['id']"
    ids = np.asarray(model.tables[table]).copy()
    ids[1:10] = OOV
    arrays = replaced_arrays(model.arrays, {table: ids})
    items = list(model.vocabulary.item[:9])
    request = dataclasses.replace(given(model.run, "online")[20], moveline=[])
    logits = []
    for some in (items, [f"new {item}" for item in items]):
        encoded = model.encoder.encode(model.number(dataclasses.replace(request, items=some)))
        encoded = encoded._replace(statistics=np.zeros_like(encoded.statistics))
        encoded = encoded._replace(batch=encoded.batch._replace(pair=None))
        logits.append(np.asarray(model.programs.score(arrays, *encoded)))
    np.testing.assert_allclose(*logits, atol=CLOSE)


def test_the_generator_reads_new_items_by_their_features(load, twins):
    model = twins("hybrid")
    vectors, own = np.asarray(model.item_vectors), np.asarray(load("hybrid").item_vectors)
    np.testing.assert_array_equal(vectors[:32], own[:32])
    items = {name: ids[1:10].copy() for name, ids in model.features.items.items()}
    items["id"][:] = OOV
    generator = model.functions.generator.bind({"params": model.arrays["constants"]["generator"]})
    np.testing.assert_allclose(vectors[32:41], generator.vectors(items), atol=CLOSE)
    assert np.abs(vectors[32:41] - vectors[31]).max() > 100 * CLOSE


@pytest.mark.parametrize("variant", ["popularity", "hybrid"])
def test_an_artefact_has_the_scores_of_the_run(load, artefacts, variant):
    run, model = load(variant), serving.load(artefacts(variant))
    items = {f"new {item}": features_of(run, item) for item in run.vocabulary.item[:9]}
    requests = requests_for(run, [*run.vocabulary.item[:3], *items, "an unknown item"])
    one, other = (serving.with_items(m, items) for m in (run, model))
    expected = one.score(requests).logit
    np.testing.assert_allclose(other.score(requests).logit, expected, atol=CLOSE)
    raw = one.uncalibrated(one.number(requests))
    np.testing.assert_allclose(other.uncalibrated(other.number(requests)), raw, atol=CLOSE)
    if variant == "hybrid":
        assert np.abs(raw - run.uncalibrated(run.number(requests))).max() > 100 * CLOSE
        for best in one.recommend(requests[:9], 5):
            assert len(best.item_id) == 5 and set(best.item_id) <= set(run.vocabulary.item)
        state = other.new_state(moveline=requests[5].moveline)
        request = dataclasses.replace(requests[5], user_id=None)
        whole = other.uncalibrated(other.number(request))
        grown = other.uncalibrated(other.number(dataclasses.replace(request, moveline=[])), state)
        np.testing.assert_allclose(grown, whole, atol=CLOSE)


def test_new_items_that_cannot_be_added_are_one_line(load):
    model = load("base")
    for items, message in (
        ({"3": {}}, "item '3' is in the run's data"),
        ({"a": {"colour": "red"}}, "'colour' is no feature; choose from ['category', 'style']"),
        ({"a": {"category": ["category0", "category2"]}}, "category has 2 values; 1 at most"),
        ({"a": {"category": 1.5}}, "item 'a': category is 1.5; give text, or a whole number"),
        ({str(n): {} for n in range(100, 101 + SPARE_ITEMS)}, "1,025 new items; a model takes"),
    ):
        with pytest.raises(RequestError, match=re.escape(message)):
            serving.with_items(model, items)
    with pytest.raises(RequestError, match="new items already"):
        serving.with_items(serving.with_items(model, {"a": {}}), {"b": {}})


def test_a_file_of_new_items(load, tmp_path):
    model = load("base")
    items = {f"new {n}": features_of(model, str(n)) for n in range(3)}
    rows = [{"item_id": name, **features} for name, features in items.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    requests = requests_for(model, ["0", *items])
    pq.write_table(as_table(requests), tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    command.score(model, tmp_path / "in.parquet", output, items=tmp_path / "items.parquet")
    expected = serving.with_items(model, items).score(requests).logit
    np.testing.assert_allclose(pd.read_parquet(output)["logit"], expected, atol=CLOSE)
    text = tmp_path / "items.csv"
    text.write_text("item_id,colour\na,red\n")
    with pytest.raises(DataError, match=r"items\.csv: item 'a': 'colour' is no feature"):
        command.score(model, tmp_path / "in.parquet", output, items=text)
    text.write_text("name\na\n")
    with pytest.raises(DataError, match="has no column 'item_id'"):
        command.score(model, tmp_path / "in.parquet", output, items=text)
    assert files.read_scores(output).num_rows == 4 * len(requests)
