"""What is said of models that order impressions worse than at random."""

import types

from nif_jax.stages import ranking


def test_an_auc_below_chance_is_a_warning_with_likely_causes(caplog):
    run = types.SimpleNamespace(dataset=types.SimpleNamespace(movelines=types.SimpleNamespace()))
    run.dataset.movelines.name = "shop"
    with caplog.at_level("WARNING"):
        ranking.warn_below_chance(run, {"base": 0.5, "nif": None, "tsp": 0.7}, "test")
        assert not caplog.text
        ranking.warn_below_chance(run, {"base": 0.376, "nif": 0.6, "tsp": 0.499}, "test")
    (record,) = caplog.records
    assert "shop: AUC on test below .5: base 0.3760, tsp 0.4990." in record.getMessage()
    assert "data.negatives_days" in record.getMessage()
