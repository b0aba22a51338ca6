"""Scores of requests: those of the run, for what the run has scored."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

import nif_jax
from nif_jax.data.files import read_json, write_json
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.experiment import evaluation
from nif_jax.reports.scores import read_scores
from nif_jax.reports.workdirs import WorkdirError
from nif_jax.requests.objects import Event, Request, RequestError
from tests.inference.conftest import ROWS
from tests.inference.period import by_name, given

CLOSE = 1e-5


@pytest.mark.parametrize("variant", ROWS)
def test_requests_of_the_test_period_have_the_scores_of_the_run(load, restored, finished, variant):
    model, trained = load(variant), restored(variant).trained
    kept = read_scores(finished / "seed_0" / "scores.npz").logits[variant]
    for history in ("online", "frozen"):
        requests = given(model.run, history)
        np.testing.assert_allclose(model.score(requests).logit, kept[history], atol=CLOSE)
        # Calibration may be nearly flat: also before it.
        plan = evaluation.test_plan(model.run, history)
        raw = trained.score(plan)["raw_logit"][np.argsort(plan.rows)]
        found = model.raw_logits(model.encoder.encode(model.number(requests)))
        assert raw.std() > 100 * CLOSE
        np.testing.assert_allclose(found, raw, atol=CLOSE)
    columns, certain = by_name(model.run)
    found = model.score(pa.table(columns))
    np.testing.assert_array_equal(found.request, np.arange(len(certain)))
    assert certain.mean() > 0.9
    np.testing.assert_allclose(found.logit[certain], kept["online"][certain], atol=CLOSE)


def test_candidates_of_one_request_have_the_scores_of_requests_of_one(load):
    model = load("hybrid")
    items = [*model.vocabulary.item[:20], "an unknown item"]
    requests = [dataclasses.replace(r, items=items) for r in given(model.run, "online")[:40:8]]
    together = model.score(requests)
    alone = [
        model.score(dataclasses.replace(request, items=[item])).probability[0]
        for request in requests[:2]
        for item in items[::5]
    ]
    split = together.by_request(len(requests))
    assert [len(part) for part in split] == [len(items)] * len(requests)
    np.testing.assert_allclose([*split[0][::5], *split[1][::5]], alone, atol=CLOSE)


def test_unknown_users_are_scored_by_their_profile_and_unknown_items_by_none(load):
    model = load("base")
    moment = {"timestamp": model.base + 10**6, "scene": model.vocabulary.scene[0]}
    item = model.vocabulary.item[3]
    (name, values), *_ = model.vocabulary.profile.items()

    def score(**fields):
        return model.score(Request(**moment, **({"items": [item]} | fields))).logit[0]

    unknown = score(user_id="nobody")
    assert unknown == score(moveline=[]) == score(user_id="nobody either", profile={name: "?"})
    assert unknown != score(user_id="nobody", profile={name: values[0]})
    assert unknown != score(user_id=model.vocabulary.user[0])
    assert unknown != score(user_id="nobody", items=["new"]) == score(moveline=[], items=["newer"])


GOOD = {"user_id": "u", "items": ["i"], "timestamp": 1_600_000_000, "scene": "scene0"}
PAST = {"item_id": "i", "timestamp": 1_600_000_000, "scene": "scene0", "action": "click"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene": "scene9"}, "request 0: scene 'scene9' is none of scene0"),
        ({"scene": None}, "request 0: scene None is none of scene0"),
        ({"timestamp": -5}, "request 0: timestamp -5 is not from 0 to"),
        ({"timestamp": 1 << 40}, "request 0: timestamp 1099511627776 is not from 0 to"),
        ({"timestamp": float("nan")}, "request 0: timestamp is nan; give a whole number"),
        ({"timestamp": "now"}, "request 0: timestamp is 'now'; give a whole number"),
        ({"timestamp": None}, "request 0: timestamp is None; give whole seconds"),
        ({"items": []}, "request 0: has no items"),
        ({"items": "i"}, "request 0: items is 'i'; give a list"),
        ({"items": [None]}, "request 0: items: one is null"),
        ({"items": [1.5]}, "request 0: items is 1.5; give text"),
        ({"user_id": None}, "request 0: has neither user_id nor moveline"),
        ({"user_id": ["u"]}, "request 0: user_id is .'u'.; give text"),
        ({"users": "u"}, "request 0: there is no field 'users'; choose from"),
        ({"profile": {"shoe size": "9"}}, "there is no field 'shoe size'; choose from"),
        ({"moveline": "i"}, "request 0: moveline is 'i'; give a list"),
        ({"moveline": [PAST | {"action": "hum"}]}, "moveline: action 'hum' is none of"),
        ({"moveline": [PAST | {"scene": "x"}]}, "moveline: scene 'x' is none of"),
        ({"moveline": [PAST | {"timestamp": 1_600_000_001}]}, "is later than the request"),
        (
            {"moveline": [PAST, PAST | {"timestamp": 1}]},
            "moveline: events at 1 are not in order",
        ),
        ({"moveline": [PAST | {"label": 2}]}, "event 0: label is 2; choose from 1, 0 and -1"),
        ({"moveline": [PAST | {"item_id": None}]}, "request 0: moveline: no item_id"),
        ({"moveline": [Event("i", 1.5, "scene0", "click")]}, "timestamp is 1.5; give a whole"),
    ],
)
def test_requests_that_cannot_be_scored_have_one_line_of_reason(load, change, message):
    with pytest.raises((RequestError, DataError), match=message):
        load("base").score(GOOD | change)


def test_what_cannot_be_loaded_is_named(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"variant='hybird' is none of base.*did you mean"):
        nif_jax.load(finished, "hybird")
    with pytest.raises(ConfigError, match=r"seed=3: .* has seeds 0 to 0"):
        nif_jax.load(finished, seed=3)
    with pytest.raises(WorkdirError, match=r"is no workdir of a run: it has no config\.json"):
        nif_jax.load(tmp_path)
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    with pytest.raises(WorkdirError, match="has not finished"):
        nif_jax.load(tmp_path)
    (tmp_path / "results.json").write_bytes((finished / "results.json").read_bytes())
    config = {k: v for k, v in read_json(finished / "config.json").items() if k != "data.ties"}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(WorkdirError, match=r"another version .*lacks data\.ties\. "):
        nif_jax.load(tmp_path)
