"""--mode=parity: the first feature that differs, for injected faults of serving."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from nif_jax import serving
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.inference import build, command, parity
from nif_jax.requests import files
from nif_jax.requests.encode import Encoder
from nif_jax.requests.objects import as_table
from nif_jax.serving import parity_models, parity_tables
from nif_jax.serving.model import Model
from nif_jax.serving.samples import sample_requests
from tests.inference.period import given

HOUR = 3600
PARTS = ("variant", "programs", "arrays", "vocabulary", "encoder", "calibration")


@pytest.fixture(scope="module")
def artefact(artefacts):
    return serving.load(artefacts("hybrid"))


def rebuilt(model, **parts):
    """A model with other parts."""
    return Model(**{name: getattr(model, name) for name in PARTS} | parts)


def samples(model):
    return model.number(sample_requests(model.vocabulary, model.encoder))


def replaced(path, change):
    """A fault: `change` of what a dotted path of a model leads to."""
    first, *names = path.split(".")

    def of(part, rest):
        if not rest:
            return change(part)
        value = of(getattr(part, rest[0]), rest[1:])
        if isinstance(part, tuple):
            return part._replace(**{rest[0]: value})
        return dataclasses.replace(part, **{rest[0]: value})

    return lambda model: rebuilt(model, **{first: of(getattr(model, first), names)})


def swapped(names):
    return np.concatenate([names[1::-1], names[2:]])


def in_table(path, change):
    """A fault of the tables whose path contains this."""

    def fault(model):
        tables = {n: np.asarray(x) for n, x in model.arrays.items()}
        return rebuilt(
            model, arrays={n: change(x.copy()) if path in n else x for n, x in tables.items()}
        )

    return fault


def stale(table):
    table[3:6] += 0.1
    return table


def noise(table):
    return table + np.random.default_rng(len(table)).normal(size=table.shape).astype(table.dtype)


def without_last_events(model):
    """Each moveline without its last event."""
    log = model.encoder.log
    kept = np.ones(len(log.rows.item), bool)
    kept[log.offsets[1:] - 1] = False
    offsets = log.offsets - np.arange(len(log.offsets))
    log = dataclasses.replace(log, rows=log.rows.take(np.flatnonzero(kept)), offsets=offsets)
    return rebuilt(model, encoder=dataclasses.replace(model.encoder, log=log))


def totals_of_another_run(model):
    past = model.encoder.statistics.counters.past
    item = past.of_values["item"]
    other = type(item).of_totals(item.totals[0], item.totals[1] + 1)
    counters = type(model.encoder.statistics.counters).of_past(
        past._replace(of_values=past.of_values | {"item": other})
    )
    return replaced("encoder.statistics.counters", lambda _: counters)(model)


def of_program(name, change):
    """A fault of a compiled function."""
    return replaced(f"programs.{name}", lambda call: lambda *given: change(call(*given)))


class OneEventLess(Encoder):
    """Code of serving that forgets the newest event."""

    def encode(self, requests, lines=None, with_windows=True):
        lines = lines._replace(end=np.maximum(lines.end - 1, lines.begin))
        return super().encode(requests, lines, with_windows)


def shifted_code(model):
    parts = {f.name: getattr(model.encoder, f.name) for f in dataclasses.fields(Encoder)}
    return rebuilt(model, encoder=OneEventLess(**parts))


def flipped(labels):
    return np.where(labels < 0, labels, 1 - labels).astype(labels.dtype)


STYLE = "['constants']['items']['style']"
ITEMS = "['params']['items']['id']"
OF_MODELS = {
    "shorter history": (
        replaced("encoder.length", lambda n: n - 1),
        "length of the history",
        "another config",
    ),
    "clock": (
        replaced("encoder.log.base", lambda n: n + HOUR),
        "second of the first event",
        "+3600 s",
    ),
    "scene rule": (
        replaced("encoder.log.ranked_scene", lambda x: ~x),
        "scenes whose labels are read",
        "conf",
    ),
    "missing statistics": (
        replaced("encoder.statistics", lambda _: None),
        "count features",
        "left has none",
    ),
    "other windows": (replaced("encoder.chunked", lambda x: not x), "windows are chunks", "config"),
    "swapped vocabulary": (
        replaced("vocabulary.item", swapped),
        "vocabulary item",
        "in another order",
    ),
    "old vocabulary": (
        replaced("vocabulary.item", lambda x: x[:-1]),
        "vocabulary item",
        "left lacks 1",
    ),
    "values of an item feature": (
        replaced("vocabulary.item_profile", lambda x: x | {"category": swapped(x["category"])}),
        "vocabulary item/category",
        "in another order",
    ),
    "old data": (without_last_events, "moveline/length", "left has fewer events"),
    "time zone of the data": (
        replaced("encoder.log.rows.time", lambda x: x + HOUR),
        "moveline/time",
        "time zone",
    ),
    "labels of the data": (
        replaced("encoder.log.rows.label", flipped),
        "moveline/label",
        "labels are flipped",
    ),
    "dropped actions": (
        replaced("encoder.log.rows.action", np.zeros_like),
        "moveline/action",
        "left is 0 every",
    ),
    "scenes of the data": (
        replaced("encoder.log.rows.scene", lambda x: np.where(x < 3, 3 - x, x)),
        "moveline/scene",
        "of 1159 rows differ",
    ),
    "user features": (
        replaced("encoder.user_features", lambda x: x | {"leaning": x["leaning"] * 0}),
        "user/leaning",
        "left is 0 everywhere",
    ),
    "stale item table": (in_table(ITEMS, stale), ITEMS, "3 of 32 rows differ"),
    "another seed": (
        in_table("['params']", noise),
        "['params']['align']['key']['bias']",
        "another training",
    ),
    "float16 tables": (
        in_table(ITEMS, lambda x: x.astype(np.float16).astype(np.float32)),
        ITEMS,
        "left is rounded to float16",
    ),
    "half tables": (in_table(ITEMS, lambda x: x.astype(np.float16)), ITEMS, "precision"),
    "swapped columns": (in_table(STYLE, lambda x: x[:, ::-1]), STYLE, "the same columns"),
    "rows of items": (
        in_table(ITEMS, lambda x: np.concatenate([x[:1], x[:0:-1]])),
        ITEMS,
        "the same rows",
    ),
    "stale generator": (
        in_table("['constants']['generator']['read']['kernel']", noise),
        "['constants']['generator']['read']['kernel']",
        "another training",
    ),
    "totals of another run": (
        totals_of_another_run,
        "count features/total/item",
        "a constant is added",
    ),
    "mean of another run": (
        replaced("encoder.statistics.mean", lambda x: x * 1.1),
        "count features/mean",
        "1.1 x",
    ),
    "deviation of another run": (
        replaced("encoder.statistics.std", lambda x: x * 2),
        "count features/std",
        "2 x right",
    ),
    "calibration": (
        replaced("calibration.shift", lambda x: x + 1),
        "calibration",
        "another calibration",
    ),
    "code of histories": (shifted_code, "history/item", "left lacks the newest event"),
    "stale flow": (of_program("flows", lambda x: (x[0][..., ::-1], *x[1:])), "flow", ""),
    "stale program": (of_program("score", lambda x: 2 * x + 1), "uncalibrated", "2 x right +1"),
}
"""Fault -> what makes it, the feature that has to be named, and a part of the reason."""


def test_an_artefact_equals_its_run(load, artefact):
    report = parity_models.of_models(artefact, load("hybrid"), samples)
    assert report.differences == []
    assert report.equal == [
        *("settings", "vocabularies", "data", "parameters", "count features", "calibration"),
        *("features", "flow", "logits", "probabilities"),
    ]


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_fault_of_an_artefact_is_named(load, artefact, name):
    fault, feature, reason = OF_MODELS[name]
    report = parity_models.of_models(fault(artefact), load("hybrid"), samples)
    first = report.differences[0]
    assert first.feature == feature and reason in first.reason, first


@pytest.fixture(scope="module")
def dump(load, tmp_path_factory):
    """The file of --mode=score --features for requests of the test period."""
    model, folder = load("base"), tmp_path_factory.mktemp("features")
    items = list(model.vocabulary.item[:3])
    requests = [
        dataclasses.replace(r, items=[*r.items, *items]) for r in given(model.run, "online")
    ]
    pq.write_table(as_table(requests[:60]), folder / "in.parquet")
    command.score(model, folder / "in.parquet", folder / "out.parquet", features=True)
    return files.read_scores(folder / "out.parquet")


def column(name, change):
    """A fault of a feature file: `change` of each value of a column, and of its row."""

    def fault(table):
        rows = table.to_pylist()
        values = pa.array([change(row[name], row) for row in rows], table[name].type)
        return table.set_column(table.column_names.index(name), name, values)

    return fault


def each(change):
    """`change` of each event of a list."""
    return lambda events, _: [change(x) for x in events]


def exchanged(one, other):
    names = {one: other, other: one}
    return lambda name, *_: names.get(name, name)


def leak(events, row):
    return [*events, row["item_id"]][-6:]


def shifted(events, _):
    return events[:-1]


def columns_exchanged(one, other):
    def fault(table):
        names = [{one: other, other: one}.get(name, name) for name in table.column_names]
        return table.rename_columns(names).select(table.column_names)

    return fault


def only_in(scene):
    return lambda logit, row: logit + 1.0 * (row["scene"] == scene)


def reordered(table):
    return table.take(pa.array(np.random.default_rng(0).permutation(len(table))))


def repeated(table):
    return pa.concat_tables([table.slice(0, 20), table.slice(19)])


def other_calibration(logit, _):
    return 3 * logit - 1


RATE = "statistic/user rate"
OF_FILES = {
    "shifted history": (column("history/item", shifted), "history/item", "lacks the newest event"),
    "reversed history": (
        column("history/item", lambda x, _: x[::-1]),
        "history/item",
        "in the reverse order",
    ),
    "truncated history": (
        column("history/item", lambda x, _: x[-3:]),
        "history/item",
        "lacks the oldest",
    ),
    "leak": (column("history/item", leak), "history/item", "(leak)"),
    "no history": (column("history/item", lambda *_: []), "history/item", "left has no events"),
    "flipped labels": (
        column("history/label", each(lambda x: 1 - x)),
        "history/label",
        "labels are flipped",
    ),
    "time zone": (column("history/time", each(lambda x: x + 8 * HOUR)), "history/time", "+28800 s"),
    "milliseconds": (
        column("history/time", each(lambda x: 1000 * x)),
        "history/time",
        "another unit of time",
    ),
    "dropped actions": (
        column("history/action", each(lambda _: None)),
        "history/action",
        "left does not know",
    ),
    "scene mapping": (column("scene", exchanged("scene0", "scene1")), "scene", "are exchanged"),
    "user features": (
        column("user/leaning", lambda *_: None),
        "user/leaning",
        "left does not know",
    ),
    "unknown items": (column("item/id", lambda *_: None), "item/id", "left does not know"),
    "item features": (
        column("item/style", lambda x, _: x[:1]),
        "item/style",
        "lacks some of the values",
    ),
    "missing statistics": (column(RATE, lambda *_: 0.0), RATE, "left is 0 everywhere"),
    "unscaled statistics": (column(RATE, lambda x, _: 2 * x + 3), RATE, "2 x right +3"),
    "swapped statistics": (
        columns_exchanged(RATE, "statistic/item rate"),
        RATE,
        "columns are exchanged",
    ),
    "calibration": (column("logit", other_calibration), "logit", "another calibration"),
    "shift": (column("logit", lambda x, _: x + 0.5), "logit", "a constant is added"),
    "probability": (
        column("probability", lambda x, _: x / 2),
        "probability",
        "another calibration",
    ),
    "one scene": (column("logit", only_in("scene1")), "logit", "only where scene is scene1"),
    "clock": (column("timestamp", lambda x, _: x - HOUR), "timestamp", "-3600 s"),
    "order of rows": (reordered, "order of rows", "in another order"),
    "repeated rows": (repeated, "number of rows", "repeated"),
    "missing rows": (lambda table: table.slice(1), "number of rows", "on one side"),
}


@pytest.mark.parametrize("name", OF_FILES)
def test_a_fault_of_a_production_pipeline_is_named(dump, name):
    fault, feature, reason = OF_FILES[name]
    differences, _ = parity_tables.of_files(fault(dump), dump)
    assert differences[0].feature == feature and reason in differences[0].reason, differences[0]


def test_features_are_what_the_movelines_of_the_requests_have(load, dump):
    run = load("base").run
    requests = given(run, "online")[:60]
    lines = run.dataset.movelines
    for number, row in enumerate(dump.to_pylist()):
        request = requests[number // 4]
        events = request.moveline[-run.config.data.history_length :]
        for name in ("scene", "action", "label"):
            assert row[f"history/{name}"] == [getattr(event, name) for event in events]
        assert row["history/item"] == [event.item_id for event in events]
        assert row["history/time"] == [event.timestamp for event in events]
        assert row["history/length"] == len(request.moveline)
        assert (row["user/id"], row["scene"]) == (request.user_id, request.scene)
        item = 1 + list(lines.vocabulary["item"]).index(row["item_id"])
        style = lines.item_features["style"][item]
        assert row["item/style"] == list(lines.vocabulary["item/style"][style[style > 0] - 1])
    assert dump["row"].to_pylist() == [row for row in range(60) for _ in range(4)]
    assert dump.column_names[-3:] == ["uncalibrated", "logit", "probability"]


def test_an_artefact_and_its_run_on_given_requests(load, artefacts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "load", lambda workdir, variant, seed: load(variant))
    folder, source = str(artefacts("hybrid")), tmp_path / "in.jsonl"
    moment = {"user_id": "3", "timestamp": 1_604_300_000, "scene": "scene0"}
    source.write_text(json.dumps(moment | {"items": ["1", "new"]}) + "\n")
    assert not parity.compare(folder, str(tmp_path), source)
    assert "are equal: settings, vocabularies, data" in capsys.readouterr().out
    source.write_text(json.dumps(moment | {"items": ["1"], "scene": "scene7"}) + "\n")
    with pytest.raises(DataError, match=r"in\.jsonl: row 0: scene 'scene7' is none of scene0"):
        parity.compare(folder, folder, source)
    monkeypatch.setattr(build, "load", lambda workdir, variant, seed: load("base"))
    assert parity.compare(str(tmp_path), folder, None)
    printed = capsys.readouterr().out
    assert "differ in their settings; they are compared first.\nvariant: a setting" in printed
    assert "  left:   base\n  right:  hybrid\n  reason: another config" in printed
    assert "also different: " in printed


def test_files_of_scores_in_all_formats(dump, tmp_path, capsys):
    scores = dump.select(["row", *parity_tables.KEYS, "logit", "probability"])
    pq.write_table(scores, tmp_path / "a.parquet")
    pa.csv.write_csv(scores, tmp_path / "a.csv")
    rows = "".join(json.dumps(row) + "\n" for row in scores.to_pylist())
    (tmp_path / "a.jsonl").write_text(rows)
    predicted = scores.rename_columns([*scores.column_names[:-1], "base_online_seed_0"])
    pq.write_table(predicted.drop_columns(["row", "logit"]), tmp_path / "predictions.parquet")
    left = str(tmp_path / "a.parquet")
    (tmp_path / "a.txt").touch()
    for right in ("a.csv", "a.jsonl", "predictions.parquet:base_online_seed_0"):
        assert not parity.compare(left, str(tmp_path / right), None)
        assert "are equal in" in capsys.readouterr().out
    for name, message in (
        ("predictions.parquet:nif", "has no column 'nif'; it has user_id"),
        ("predictions.parquet", "no column in common but user_id, item_id, timestamp"),
        ("a.txt", "the formats of scores are .parquet, .csv, .jsonl"),
        ("b.parquet", r"b\.parquet: no such file"),
    ):
        with pytest.raises(DataError, match=message):
            parity.compare(left, str(tmp_path / name), None)


def test_what_cannot_be_compared_is_one_line(load, artefacts, tmp_path):
    folder = str(artefacts("hybrid"))
    for sides, source, message in (
        ((folder, "a.parquet"), None, "compare two files, or two folders"),
        (("a.csv", "b.csv"), tmp_path, "--input goes with two folders"),
        ((str(tmp_path), str(tmp_path)), None, "is an artefact: write one by --mode=export"),
    ):
        with pytest.raises(ConfigError, match=message):
            parity.compare(*sides, source)
    with pytest.raises(DataError, match="--features writes lists; give"):
        command.score(load("base"), tmp_path / "in.csv", tmp_path / "out.csv", features=True)
