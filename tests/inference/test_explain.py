"""Explanations: the weights that the models computed."""

import dataclasses

import numpy as np
import pytest

from tests.inference.period import given


@pytest.mark.parametrize("variant", ["base", "hybrid"])
def test_an_explanation_has_what_the_score_was_made_of(load, variant):
    model = load(variant)
    length, horizon = model.encoder.length, model.run.config.flow.horizon
    request = max(given(model.run, "online"), key=lambda r: len(r.moveline))
    assert len(request.moveline) > length
    request = dataclasses.replace(request, items=list(model.vocabulary.item[:4]))
    found = model.explain(request)
    np.testing.assert_allclose(found.logit, model.score(request).logit, atol=1e-5)
    assert found.item_id == request.items
    assert found.history == [e.item_id for e in request.moveline[-length:]]
    assert found.attention.shape == (4, length) and np.unique(found.attention).size > length
    assert set(found.statistics) == set(model.encoder.statistics.names)
    assert all(values.shape == (4,) for values in found.statistics.values())
    if variant == "base":
        assert found.flow_attention is None and not found.nearest and not found.generated
        return
    assert found.flow_attention.shape == (4, horizon)
    np.testing.assert_allclose(found.flow_attention.sum(1), 1, atol=1e-5)
    flow, vectors = model.flow([request.moveline])[0], np.asarray(model.item_vectors)
    place = {name: 1 + n for n, name in enumerate(model.vocabulary.item)}
    for state, nearest in zip(flow, found.nearest, strict=True):
        cosines = [cosine for _, cosine in nearest]
        assert cosines == sorted(cosines, reverse=True)
        assert cosines[0] == pytest.approx((vectors[1 : len(place) + 1] @ state).max(), abs=1e-5)
        for name, cosine in nearest:
            assert vectors[place[name]] @ state == pytest.approx(cosine, abs=1e-5)
    beams = model.functions.cohorts.beams
    assert len(set(found.generated)) == len(found.generated) == beams


def test_what_comes_of_nothing_has_no_attention(load):
    model = load("hybrid")
    moment = {"timestamp": model.base + 1, "scene": model.vocabulary.scene[0]}
    found = model.explain(moment | {"items": [model.vocabulary.item[0]], "moveline": []})
    assert found.history == [] and found.attention.shape == (1, 0)
    assert found.flow_attention is None and not found.nearest and not found.generated
