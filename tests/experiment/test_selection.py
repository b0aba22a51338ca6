"""Which variant `selected` is."""

from types import SimpleNamespace

from nif_jax.experiment import selection


def stages(**measured):
    """Name -> a trained stage with (AUC, calibrated log loss) on validation."""
    return {
        name: SimpleNamespace(metrics={"auc": auc}, calibration=SimpleNamespace(log_loss=loss))
        for name, (auc, loss) in measured.items()
    }


def select(found, rows=None):
    config = SimpleNamespace(rows=rows or [*found, "selected"], train=SimpleNamespace(metric="auc"))
    return selection.select(config, found)


def test_the_best_metric_wins_and_of_equal_ones_the_first():
    assert select(stages(base=(0.7, 0.5), nif=(0.72, 0.5), tsp=(0.72, 0.4))) == "nif"
    assert select(stages(base=(0.7, 0.5), nif=(0.69, 0.4))) == "base"


def test_a_log_loss_worse_than_the_bases_is_left_out():
    found = stages(base=(0.7, 0.5), nif=(0.75, 0.51), tsp=(0.71, 0.5))
    assert select(found) == "tsp"
    # The base is trained in every run, also where it is no candidate.
    assert select(found, ["nif", "tsp", "selected"]) == "tsp"
    # If every candidate is worse, the metric decides.
    assert select(found, ["nif", "selected"]) == "nif"


def test_controls_are_never_selected():
    found = stages(lightgbm=(0.9, 0.1), counters=(0.9, 0.1), base=(0.7, 0.5), nif=(0.71, 0.5))
    assert select(found) == "nif"
