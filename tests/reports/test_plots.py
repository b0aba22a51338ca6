"""Plots: files that are real pictures, and drawings that show the numbers they were given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from nif_jax.reports import flow_map, plots


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, for a look at what it shows."""
    seen = []
    save = Figure.savefig

    def savefig(self, *arguments, **options):
        seen.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return seen


def _assert_picture(path):
    pixels = imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 300
    assert pixels[..., :3].std() > 0.02  # not blank


def _records(stage, steps, **values):
    return [
        {
            "step": step,
            "stage": stage,
            "time": 0.0,
            "values": {name.replace("__", "/"): value / step for name, value in values.items()},
        }
        for step in steps
    ]


def test_training_curves(tmp_path, figures):
    records = [
        *_records("base", [10, 20], train__loss=1.0),
        *_records("base", [20, 10], validation__auc=8.0),
        *_records("generator", [10, 20], train__loss=2.0),
        {"step": 30, "stage": "base", "time": 0.0, "values": {"train/loss": None}},
        *_records("tokenizer", [1], used_codes=1.0),
    ]
    path = plots.training_curves(records, tmp_path / "new" / "curves.png")
    assert path == tmp_path / "new" / "curves.png"
    _assert_picture(path)
    upper, other, lower, _ = figures[0].axes
    assert [axis.get_title("left") for axis in (upper, other)] == ["base", "generator"]
    np.testing.assert_allclose(upper.lines[0].get_xydata(), [[10, 0.1], [20, 0.05]])
    np.testing.assert_allclose(lower.lines[0].get_xydata(), [[10, 0.8], [20, 0.4]])
    assert lower.get_title("left") == "best 0.8000 at step 10"
    with pytest.raises(ValueError, match="train/loss"):
        plots.training_curves(records[-1:], tmp_path / "none.png")


def test_calibration_scores_put_the_separation_in_the_title(tmp_path, figures):
    rng = np.random.default_rng(0)
    scores = {
        "TSP off": (rng.normal(0, 1, 200), rng.normal(0, 1, 300)),
        "TSP on": (np.array([1.0, 2.0]), np.array([0.0, 1.0])),
    }
    _assert_picture(plots.calibration_scores(scores, tmp_path / "calibration.png"))
    off, on = figures[0].axes
    assert off.get_title("left").startswith("TSP off")
    assert on.get_title("left") == "TSP on: mean difference +1.000, AUC 0.8750"
    names = [text.get_text() for text in on.get_legend().get_texts()]
    assert names == ["no click (2)", "click (2)"]


def test_calibration_scores_of_a_silent_head(tmp_path):
    constant = {"TSP off": (np.zeros(3), np.zeros(4))}
    _assert_picture(plots.calibration_scores(constant, tmp_path / "constant.png"))
    with pytest.raises(ValueError, match="TSP off"):
        plots.calibration_scores({"TSP off": (np.zeros(3), np.zeros(0))}, tmp_path / "none.png")


def test_auc_by_history(tmp_path, figures):
    limits = [(0, 1), (1, 5), (5, None)]
    buckets = {
        model: [
            {"lower": low, "upper": high, "count": 1000, "auc": auc}
            for (low, high), auc in zip(limits, areas, strict=True)
        ]
        for model, areas in {"base": [0.6, 0.7, 0.8], "nif": [None, 0.75, 0.85]}.items()
    }
    _assert_picture(plots.auc_by_history(buckets, tmp_path / "history.png"))
    upper, lower = figures[0].axes
    assert [line.get_label() for line in upper.lines] == ["base", "nif"]
    np.testing.assert_array_equal(upper.lines[1].get_ydata(), [np.nan, 0.75, 0.85])
    assert [text.get_text() for text in lower.get_xticklabels()] == ["0", "1–4", "≥ 5"]
    buckets["nif"] = buckets["nif"][:2]
    with pytest.raises(ValueError, match="same limits"):
        plots.auc_by_history(buckets, tmp_path / "none.png")


def test_reliability(tmp_path, figures):
    logits = np.repeat([-np.log(3), np.log(3)], 8)  # predicted .25 and .75
    labels = np.r_[np.repeat([1, 0], [2, 6]), np.repeat([1, 0], [4, 4])]  # observed .25 and .5
    models = {"base": logits, "amen": np.zeros(16)}
    _assert_picture(plots.reliability(labels, models, tmp_path / "reliability.png"))
    base, amen = figures[0].axes
    np.testing.assert_allclose(base.lines[1].get_xydata(), [[0.25, 0.25], [0.75, 0.5]])
    assert base.get_title("left") == "base: ECE 0.1250, PCOC 1.333"  # .5 predicted of .375
    np.testing.assert_allclose(amen.lines[1].get_xydata(), [[0.5, 0.375]])
    for panel in (base, amen):  # nothing is cut off
        assert panel.get_xlim() == panel.get_ylim() and panel.get_xlim()[1] > 0.75
    with pytest.raises(ValueError, match="at least one model"):
        plots.reliability(labels, {}, tmp_path / "none.png")


@pytest.mark.parametrize("users", [1, 4, 5])
def test_flow_map(tmp_path, figures, users):
    rng = np.random.default_rng(0)
    items, flows = rng.normal(size=(60, 8)), rng.normal(size=(users, 3, 8))
    next_items = np.tile([4, 7, -1], (users, 1))
    categories = [f"genre {index % 7}" for index in range(60)]
    path = flow_map.flow_map(
        items,
        flows,
        next_items,
        tmp_path / "map.png",
        categories,
        histories=rng.normal(size=(users, 5, 8)),
        users=[f"user {index}" for index in range(users)],
    )
    _assert_picture(path)
    panels = [axis for axis in figures[0].axes if axis.axison]
    assert [panel.get_title("left") for panel in panels] == [
        f"user {index}" for index in range(users)
    ]
    points = {series.get_label(): series.get_offsets() for series in panels[0].collections}
    assert len(points["next items, in order"]) == 2  # the padding is not drawn
    assert sum(map(len, points.values())) == 60 + 2
    history, flow = panels[0].lines
    assert history.get_xydata().shape == (5, 2)
    assert flow.get_xydata().shape == (3, 2)


def test_a_dollar_in_a_name_is_no_mathematics(tmp_path):
    items = np.random.default_rng(0).normal(size=(60, 8))
    _assert_picture(
        flow_map.flow_map(
            items,
            items[None, :3],
            np.array([[4]]),
            tmp_path / "map.png",
            categories=[r"$\frac{", r"a $ b$"] * 30,
            histories=items[None, 3:5],
            users=[r"user $\notmath$ _{"],
        )
    )


def test_flow_map_is_the_principal_plane_of_unit_vectors(tmp_path, figures):
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0].T
    items = plane @ basis * np.linspace(1, 9, 24)[:, None]  # a circle, at lengths that differ
    flow_map.flow_map(
        items,
        items[None, [0, 6]],
        np.array([[6]]),
        tmp_path / "map.png",
        categories=None,
        histories=items[None, [3]],
        users=["one"],
    )
    panel = figures[0].axes[0]
    np.testing.assert_allclose(np.linalg.norm(panel.collections[0].get_offsets(), axis=1), 1)
    drawn = panel.lines[1].get_xydata()
    np.testing.assert_allclose(drawn, panel.collections[0].get_offsets()[[0, 6]], atol=1e-9)
    assert panel.get_xlabel() == "component 1 (50% of variance)"


@pytest.mark.parametrize(
    ("items", "flows", "next_items"),
    [((6, 1), (2, 3, 1), (2, 1)), ((6, 4), (2, 3, 5), (2, 1)), ((6, 4), (2, 3, 4), (1, 1))],
)
def test_flow_map_checks_shapes(tmp_path, items, flows, next_items):
    with pytest.raises(ValueError, match="must be"):
        flow_map.flow_map(
            np.ones(items),
            np.ones(flows),
            np.zeros(next_items, int),
            tmp_path / "map.png",
            None,
            np.ones(flows),
            ["one", "two"],
        )
