"""Content vectors: what they hold, what an item without content gets, and bad files."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nif_jax.data.preparation import content
from nif_jax.data.schema import ConfigError, DataError


@pytest.fixture(scope="module")
def lines(random_movelines):
    lines = random_movelines(0, items=8)
    genre = np.zeros((9, 2), np.int32)
    genre[1:5, 0], genre[5:8, 0] = 1, 2
    titles = np.array(["blue moon", "blue sun", "red sun", "", "blue moon", "a", "red", ""])
    names = {"item": np.array([f"i{n}" for n in range(8)]), "item/genre": np.array(["X", "Y"])}
    return dataclasses.replace(
        lines, item_features={"genre": genre}, titles=titles, vocabulary=names
    )


def vectors(lines, **changes):
    settings = {"source": "tfidf", "path": "", "dim": 6, "seed": 0}
    train = np.arange(lines.num_events) >= 0
    return content.content_vectors(lines, train, **settings | changes)


def test_documents_are_title_words_and_features(lines):
    found = content.documents(lines)
    assert found[0] == ["blue", "moon", "genre=X"]
    assert found[3] == ["genre=X"]
    assert found[7] == []


def test_vectors_are_white_and_items_without_content_are_zero(lines):
    found = vectors(lines)
    assert found.shape[0] == 9 and found.dtype == np.float32
    assert not found[0].any() and not found[8].any()
    known = found[1:8]
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(known.T @ known / 7, np.eye(known.shape[1]), atol=1e-4)


def test_alike_items_have_alike_vectors(lines):
    found = vectors(lines)
    distance = np.linalg.norm(found[1] - found[1:8], axis=1)
    assert distance[1] < distance[6]  # blue sun, of the same genre, against red of another


def bought_together(lines, users=60):
    """Users who buy items 1 to 4 or items 5 to 7; nobody buys item 8."""
    rng = np.random.default_rng(0)
    item = [rng.permutation([1, 2, 3, 4] if user % 2 else [5, 6, 7]) for user in range(users)]
    offsets = np.append(0, np.cumsum([len(one) for one in item]))
    item = np.concatenate(item).astype(np.int32)
    same = dict.fromkeys(("scene", "action", "label"), np.ones(len(item), np.int32))
    return dataclasses.replace(
        lines,
        user_offsets=offsets,
        item=item,
        time=np.arange(len(item)),
        item_features={},
        titles=np.array([""] * 8),
        **same,
    )


@pytest.mark.parametrize("source", ["tfidf", "cooccurrence"])
def test_items_without_content_get_vectors_of_what_occurs_together(lines, caplog, source):
    with caplog.at_level("WARNING"):
        found = vectors(bought_together(lines), source=source, dim=1)
    assert ("0 items have a title or a feature" in caplog.text) == (source == "tfidf")
    assert found.shape[0] == 9 and not found[0].any() and not found[8].any()
    cosine = found[1:8] @ found[1:8].T
    assert (cosine[:4, :4] > 0).all() and (cosine[4:, 4:] > 0).all() and (cosine[:4, 4:] < 0).all()


def test_later_periods_do_not_count_as_occurring_together(lines):
    store = bought_together(lines)
    train = np.arange(store.num_events) < 2 * store.num_events // 3
    settings = {"source": "cooccurrence", "path": "", "dim": 6, "seed": 0}
    found = content.content_vectors(store, train, **settings)
    changed = dataclasses.replace(store, item=np.where(train, store.item, 8).astype(np.int32))
    np.testing.assert_array_equal(found, content.content_vectors(changed, train, **settings))


def test_neither_content_nor_events_together_names_the_fix(lines):
    store = bought_together(lines)
    with pytest.raises(DataError, match=r"0 items occur together with others.*source\.items"):
        content.content_vectors(
            store, np.arange(store.num_events) < 1, source="tfidf", path="", dim=6, seed=0
        )


def test_an_unknown_source_names_the_nearest(lines):
    with pytest.raises(ConfigError, match="did you mean 'tfidf'"):
        vectors(lines, source="tfidff")
    with pytest.raises(ConfigError, match=r"content\.dim=0 leaves nothing"):
        vectors(lines, dim=0)


def _own(tmp_path, ids, values):
    frame = pd.DataFrame({"item_id": ids, "vector": [list(v) for v in values]})
    path = tmp_path / "own.parquet"
    frame.to_parquet(path)
    table = np.zeros(len(ids), [("item_id", "U8"), ("vector", np.float32, (len(values[0]),))])
    table["item_id"], table["vector"] = ids, values
    np.save(tmp_path / "own.npy", table)
    return path


def test_own_vectors_by_item_id(lines, tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3))
    path = _own(tmp_path, ["i2", "i0", "i4", "i1", "elsewhere"], values)
    found = vectors(lines, source="file", path=str(path))
    assert found.shape == (9, 3)
    assert not found[[0, 4, 6, 7, 8]].any()  # items without a vector are at the mean
    white = content.whiten(values[[1, 3, 0, 2]], np.ones(4, bool), 6)
    np.testing.assert_allclose(found[[1, 2, 3, 5]], white, atol=1e-5)
    again = vectors(lines, source="file", path=str(path.with_suffix(".npy")))
    np.testing.assert_allclose(again, found, atol=1e-5)
    # Of more axes than requested, those that vary most stay.
    fewer = vectors(lines, source="file", path=str(path), dim=2)
    np.testing.assert_allclose(fewer, found[:, :2], atol=1e-5)


def test_bad_files_are_named(lines, tmp_path):
    with pytest.raises(DataError, match="is no file"):
        vectors(lines, source="file", path=str(tmp_path / "none.npy"))
    path = _own(tmp_path, ["i0", "i1"], np.array([[1.0, 2.0], [3.0, np.nan]]))
    with pytest.raises(DataError, match="row 1, item i1: the vector is not finite"):
        vectors(lines, source="file", path=str(path))
    path = _own(tmp_path, ["x", "y"], np.ones((2, 2)))
    with pytest.raises(DataError, match=r"0 of 8 items have a vector.* such as 'x', .* as 'i0'"):
        vectors(lines, source="file", path=str(path))
    pd.DataFrame({"item": [1]}).to_parquet(path)
    with pytest.raises(DataError, match="no column 'item_id'"):
        vectors(lines, source="file", path=str(path))
    np.save(tmp_path / "plain.npy", np.ones((2, 2)))
    with pytest.raises(DataError, match="structured array"):
        vectors(lines, source="file", path=str(tmp_path / "plain.npy"))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [3.0]], "row 1, item i1: the vector has not 2 numbers, as that of row 0"),
        ([[1.0, 2.0], None], "row 1, item i1: the vector is missing or no list of numbers"),
        (["1 2", "3 4"], "row 0, item i0: the vector is missing or no list of numbers"),
        ([["a", "b"], ["c", "d"]], "row 0, item i0: the vector is missing or no list of numbers"),
        ([1.0, 2.0], "row 0, item i0: the vector is missing or no list of numbers"),
        ([[[1.0], [2.0]], [[3.0], [4.0]]], "column 'vector' .* holds values of type list<"),
        ([[], []], "row 0, item i0: the vector is missing or no list of numbers"),
        ([[1.0, None], [3.0, 4.0]], "row 0, item i0: the vector is not finite"),
    ],
)
def test_bad_vectors_in_parquet_are_located(lines, tmp_path, column, message):
    path = tmp_path / "own.parquet"
    pd.DataFrame({"item_id": ["i0", "i1"], "vector": column}).to_parquet(path)
    with pytest.raises(DataError, match=message) as error:
        vectors(lines, source="file", path=str(path))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ((np.float32,), r"vector has shape \(2,\) and type float32, where \[n\] and \[n, D\]"),
        ((np.float32, (2, 3)), r"vector has shape \(2, 2, 3\)"),
        (("U3", (2,)), r"shape \(2, 2\) and type <U3"),
        ((object,), r"cannot be read \(.*allow_pickle.*a structured array with fields item_id"),
    ],
)
def test_bad_vectors_in_npy_say_what_is_expected(lines, tmp_path, kind, message):
    table = np.zeros(2, [("item_id", "U8"), ("vector", *kind)])
    table["item_id"] = ["i0", "i1"]
    path = tmp_path / "own.npy"
    np.save(path, table, allow_pickle=True)
    with pytest.raises(DataError, match=message) as error:
        vectors(lines, source="file", path=str(path))
    assert str(error.value).startswith(str(path))


def test_files_that_hold_no_vectors(lines, tmp_path):
    path = _own(tmp_path, ["i0", "i1", "i0"], np.eye(3))
    for file in (path, path.with_suffix(".npy")):
        with pytest.raises(DataError, match="'item_id', row 2: value 'i0' stands there twice"):
            vectors(lines, source="file", path=str(file))
    pd.DataFrame({"item_id": ["i0", None], "vector": [[1.0], [2.0]]}).to_parquet(path)
    with pytest.raises(DataError, match="'item_id', row 1: value nan is null"):
        vectors(lines, source="file", path=str(path))
    pd.DataFrame({"item_id": [], "vector": []}).to_parquet(path)
    with pytest.raises(DataError, match="0 of 8 items have a vector"):
        vectors(lines, source="file", path=str(path))
    for name, message in (
        ("own.csv", r"unknown extension '\.csv'; give a \.npy of a structured array"),
        ("broken.parquet", r"broken\.parquet: cannot be read"),
        ("broken.npy", r"broken\.npy: cannot be read"),
    ):
        (tmp_path / name).write_text("no vectors")
        with pytest.raises(DataError, match=message):
            vectors(lines, source="file", path=str(tmp_path / name))
