"""--mode=score and --mode=recommend: files in, files out."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from nif_jax.data.schema import DataError
from nif_jax.inference import command
from nif_jax.requests import files
from nif_jax.requests.objects import as_table
from tests.inference.period import by_name, given


def test_files_of_all_formats_have_the_same_scores_in_their_order(load, tmp_path, monkeypatch):
    model = load("base")
    table = pa.table(by_name(model.run)[0])
    expected = model.score(table).logit
    monkeypatch.setattr(files, "CHUNK", 50)
    pq.write_table(table, tmp_path / "in.parquet")
    pa.csv.write_csv(table, tmp_path / "in.csv")
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    (tmp_path / "in.jsonl").write_text(lines)
    readers = {"parquet": pd.read_parquet, "csv": pd.read_csv, "jsonl": _read_jsonl}
    for source, output in (("parquet", "jsonl"), ("csv", "parquet"), ("jsonl", "csv")):
        path = tmp_path / f"out.{output}"
        command.score(model, tmp_path / f"in.{source}", path)
        found = readers[output](path)
        np.testing.assert_allclose(found["logit"], expected, atol=1e-5)
        assert found["row"].tolist() == list(range(len(table)))
        for name in ("user_id", "item_id", "timestamp"):
            assert found[name].astype(str).tolist() == [str(x) for x in table[name].to_pylist()]
        assert not command.rejected_path(path).exists()


def test_movelines_survive_a_file(load, tmp_path):
    model = load("hybrid")
    requests = given(model.run, "frozen")[:20]
    pq.write_table(as_table(requests), tmp_path / "in.parquet")
    command.score(model, tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    np.testing.assert_allclose(found["logit"], model.score(requests).logit, atol=1e-5)


def test_bad_rows_go_to_a_side_file_with_reasons(load, tmp_path, capsys):
    model = load("base")
    columns, _ = by_name(model.run)
    user, item, second = (columns[name][0] for name in ("user_id", "item_id", "timestamp"))
    (tmp_path / "in.csv").write_text(
        "user_id,item_id,timestamp,scene\n"
        f"{user},{item},{second},scene0\n"
        f"{user},{item},{second}\n"
        f"{user},{item},-1,scene0\n"
        f"{user},{item},{second},scene7\n"
        f"{user},{item},nan,scene0\n"
        f"nobody,nothing,{second},scene0\n"
    )
    output = tmp_path / "out.parquet"
    command.score(model, tmp_path / "in.csv", output)
    assert pd.read_parquet(output)["row"].tolist() == [0, 5]
    reasons = _read_jsonl(command.rejected_path(output))
    assert reasons["row"].tolist() == [1, 2, 3, 4]
    for reason, part in zip(
        reasons["reason"],
        [
            "has 3 fields, the header has 4",
            "timestamp -1 is not",
            "scene 'scene7' is none of",
            "nan",
        ],
        strict=True,
    ):
        assert part in reason
    assert "2 scores of 2 rows" in (printed := capsys.readouterr().out) and "4 rows" in printed


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.txt", "", r"--input=.*in\.txt: the formats are \.parquet, \.csv, \.jsonl"),
        ("in.csv", "user_id,item_id\nu,i\n", "in.csv: no column 'timestamp'; there are"),
        ("in.csv", "user_id,item_id,timestamp,scene,x\nu,i,1,s,2\n", "no field 'x'; choose from"),
        ("in.parquet", "no", r"in\.parquet is no Parquet file"),
    ],
)
def test_files_that_cannot_be_read_are_named(load, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        command.score(load("base"), tmp_path / name, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("variant", ["base", "genci", "hybrid"])
def test_recommendations_are_the_best_of_all_items_where_all_are_ranked(load, variant):
    model = load(variant)
    requests = given(model.run, "online")[:9]
    every = list(model.vocabulary.item)
    found = model.recommend(requests, 5, exclude_seen=False)  # the shortlist holds the catalogue
    probabilities = model.score([{**vars(r), "items": every} for r in requests])
    for one, whole in zip(found, probabilities.by_request(len(requests)), strict=True):
        best = np.argsort(-whole, kind="stable")[:5]
        np.testing.assert_allclose(one.probability, whole[best], atol=1e-5)
    for one, request in zip(model.recommend(requests, 5), requests, strict=True):
        assert len(one.item_id) == 5
        assert not {e.item_id for e in request.moveline} & set(one.item_id)
    few = model.recommend(requests, 5, exclude_seen=False, candidates=every[:3])
    assert all(sorted(one.item_id) == sorted(every[:3]) for one in few)


def test_a_file_of_recommendations(load, tmp_path):
    model = load("hybrid")
    columns, _ = by_name(model.run)
    table = pa.table({k: v for k, v in columns.items() if k != "item_id"}).slice(0, 70)
    pq.write_table(table, tmp_path / "in.parquet")
    command.recommend(model, tmp_path / "in.parquet", tmp_path / "out.parquet", 3, True)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found["row"].tolist() == [row for row in range(70) for _ in range(3)]
    assert found["rank"].tolist() == [1, 2, 3] * 70
    expected = model.recommend(table, 3)
    assert found["item_id"].tolist() == [name for one in expected for name in one.item_id]
    assert (found.groupby("row")["logit"].diff().dropna() <= 0).all()


def _read_jsonl(path):
    return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
