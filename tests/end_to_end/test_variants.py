"""Whole runs of the baselines and of the hybrid."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks.common import random_ids
from configs import hybrid, nif
from nif_jax.experiment import runner
from nif_jax.reports import results
from nif_jax.stages import context, finetune
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.training import checkpoint, loop
from nif_jax.training.devices.pmap import Pmap
from tests.end_to_end.runs import (
    BASELINE_ROWS,
    TINY_BASELINES,
    TINY_HYBRID,
    TINY_NIF,
    best_parameters,
    make_run,
)


def _require_close(path, one, other):
    # A bias that shifts all keys of an attention alike changes no score: its gradient is rounding,
    # which Adam brings to full size.
    if "['key']['bias']" not in jax.tree_util.keystr(path):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=str(path))


class TestBaselines:
    def test_results_hold_every_row_online_and_frozen(self, finished_baselines):
        found = results.read_results(finished_baselines)["rows"]
        assert [r["history"] for r in found if r["model"] == "bayes"] == ["online", "frozen"]
        found = [r for r in found if r["model"] != "bayes"]  # a bound costs nothing
        assert [(r["model"], r["history"]) for r in found] == [
            (m, h) for m in BASELINE_ROWS for h in ("online", "frozen")
        ]
        assert all(0 < row["auc"] < 1 and row["parameters"] > 0 for row in found)
        # One dispatch says nothing of speed.
        timed = {r["model"] for r in found if r["train_examples_per_second"]}
        assert timed == set(BASELINE_ROWS) - {"popularity"}
        loss = {(r["model"], r["history"]): r["logloss"] for r in found}
        for row in BASELINE_ROWS:
            # All trained ones read count features of the history at least.
            assert (loss[row, "online"] != loss[row, "frozen"]) == (row != "popularity")
        assert loss["sasrec", "online"] != loss["sasrec_tsp", "online"]

    def test_popularity_is_the_click_rate_of_the_labels_that_rankers_may_use(
        self, finished_baselines
    ):
        data = context.load_dataset(nif.get_config(TINY_BASELINES), Pmap(jax.devices()[:1]))
        lines = data.movelines
        shown, clicked = np.zeros((2, lines.num_items + 1))
        for item, label, period in zip(lines.item, lines.label, data.split, strict=True):
            if period == 0 and label >= 0:
                shown[item] += 1
                clicked[item] += label
        mean = (clicked.sum() + 1) / (shown.sum() + 2)
        rate = (clicked + 5 * mean) / (shown + 5)
        found = best_parameters(finished_baselines / "seed_0" / "popularity")["params"]["logit"]
        np.testing.assert_allclose(found, np.log(rate / (1 - rate)), atol=1e-5)

    def test_evaluate_repeats_the_metrics(self, finished_baselines, monkeypatch):
        before = results.read_results(finished_baselines)["rows"]
        monkeypatch.setattr(loop._Stepper, "run", lambda *_: pytest.fail("trained"))
        runner.run(nif.get_config(TINY_BASELINES), finished_baselines, "evaluate")
        after = results.read_results(finished_baselines)["rows"]
        assert [r["logloss"] for r in before] == [r["logloss"] for r in after]


class TestLabels:
    def test_the_label_head_is_blended_by_the_variants_with_labels(self, tmp_path):
        rows = ("base", "nif", "nif_labels", "amen_labels")
        text = f"{TINY_NIF},train.epochs=1.0,pretrain.epochs=1.0,rows={'+'.join(rows)}"
        runner.run(nif.get_config(text), tmp_path, "train")
        found = results.read_results(tmp_path)
        assert {r["model"] for r in found["rows"]} == {*rows, "bayes"}
        parts = {(e["model"], e["reference"]) for e in found["differences"]}
        assert {("nif_labels", "nif"), ("amen_labels", "nif_labels")} <= parts
        best = {row: best_parameters(tmp_path / "seed_0" / row)["variables"] for row in rows}
        assert not best["nif"] and best["nif_labels"].keys() == {"blend_weight"}
        assert best["amen_labels"].keys() == {"blend_weight"}


class TestHybrid:
    def test_results_hold_ranking_retrieval_and_codes(self, finished_hybrid):
        found = results.read_results(finished_hybrid)
        assert [(r["model"], r["history"]) for r in found["rows"]] == [
            (m, h) for m in ("base", "hybrid", "bayes") for h in ("online", "frozen")
        ]
        models = {r["model"]: r["targets"] for r in found["retrieval"]}
        assert models["hybrid, constrained"] == models["hybrid, unconstrained"] == "positive"
        assert {"generator", "popularity", "base embeddings"} <= set(models)
        levels = found["semantic_ids"]
        assert [(r["form"], r["level"]) for r in levels] == [("ema", k) for k in (1, 2, 3)]
        assert levels[-1]["collision_rate"] <= levels[-1]["nearest_collision_rate"]
        assert "Semantic IDs" in (finished_hybrid / "report.html").read_text()

    @pytest.mark.parametrize(("row", "share"), [("genci", 0.25), ("genci_quirks", 0.0)])
    def test_self_supervision_fades_in_the_share_of_steps_configured(self, tmp_path, row, share):
        config = hybrid.get_config(TINY_HYBRID + ",train.epochs=4.0,genci.delta_fade=0.25")
        run = dataclasses.replace(make_run(tmp_path), config=config)
        stage = finetune.make(run, row, random_ids(run))
        (source,) = (a for a in stage.loss_fn.args if isinstance(a, CohortInput))
        assert source.fade == share * 4 * stage.plan.steps_per_epoch

    def test_a_mesh_gives_the_same_parameters(self, finished_hybrid, tmp_path):
        command = [sys.executable, "-m", "nif_jax.main", f"--workdir={tmp_path}"]
        command.append(
            f"--config=configs/hybrid.py:{TINY_HYBRID},parallel=mesh,mesh.data=2,mesh.model=2"
        )
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
        found = subprocess.run(
            command,
            cwd=pathlib.Path(__file__).resolve().parents[2],
            env=os.environ | flags,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        for stage in ("tokenizer", "base", "generator", "hybrid"):
            here, there = (
                best_parameters(folder / "seed_0" / stage) for folder in (tmp_path, finished_hybrid)
            )
            jax.tree_util.tree_map_with_path(_require_close, here, there)
        # pmap reads the checkpoints of the mesh.
        before = results.read_results(tmp_path)["rows"]
        runner.run(hybrid.get_config(TINY_HYBRID), tmp_path, "evaluate")
        after = results.read_results(tmp_path)["rows"]
        assert [r["auc"] for r in after] == pytest.approx([r["auc"] for r in before], abs=1e-6)

    def test_every_stage_has_its_checkpoint(self, finished_hybrid):
        folder = finished_hybrid / "seed_0"
        names = {p.name for p in folder.iterdir() if p.is_dir()}
        assert {"base", "tokenizer", "generator", "hybrid"} <= names
        assert all(checkpoint.is_finished(folder / n) for n in ("tokenizer", "hybrid"))

    def test_evaluate_repeats_the_metrics(self, finished_hybrid, monkeypatch):
        before = results.read_results(finished_hybrid)
        monkeypatch.setattr(loop._Stepper, "run", lambda *_: pytest.fail("trained"))
        runner.run(hybrid.get_config(TINY_HYBRID), finished_hybrid, "evaluate")
        after = results.read_results(finished_hybrid)
        assert [r["auc"] for r in before["rows"]] == [r["auc"] for r in after["rows"]]
        assert before["semantic_ids"] == after["semantic_ids"]
        assert before["retrieval"] == after["retrieval"]
