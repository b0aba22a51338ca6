"""What a whole run leaves: results, scores, pages, refusals, and the A/B test on its workdir."""

import dataclasses
import itertools
import json
import pathlib

import jax
import numpy as np
import pandas as pd
import pytest

from configs import base, nif
from nif_jax.data.row_statistics import gather_statistics
from nif_jax.experiment import ab, pipeline, runner, search
from nif_jax.metrics import bootstrap, ctr
from nif_jax.metrics.writer import read_metrics
from nif_jax.reports import results
from nif_jax.reports.scores import read_scores
from nif_jax.simulation import bounds
from nif_jax.simulation.traffic import draw_traffic, lay_behind
from nif_jax.stages import finetune
from nif_jax.training import loop
from tests.end_to_end.runs import TINY, TINY_NIF, make_run


class TestOutputs:
    def test_results_hold_every_row_online_and_frozen(self, finished):
        found = results.read_results(finished)
        assert [(r["model"], r["history"]) for r in found["rows"]] == [
            (m, h)
            for m in ("base", "nif", "tsp", "amen", "selected", "bayes")
            for h in ("online", "frozen")
        ]
        *models, online, frozen = found["rows"]
        assert all(0 < row["auc"] < 1 and row["parameters"] > 0 for row in models)
        # The truth reads no history, costs nothing, and is what nobody beats.
        assert {**online, "history": "frozen"} == frozen and online["parameters"] is None
        assert online["auc"] > max(row["auc"] for row in models)
        assert online["logloss"] < min(row["logloss"] for row in models)
        by_history = {
            h: [r["logloss"] for r in found["rows"] if r["history"] == h]
            for h in ("online", "frozen")
        }
        assert by_history["online"] != by_history["frozen"]
        assert [(r["model"], r["targets"]) for r in found["retrieval"]] == [
            (model, targets)
            for model in ("generator", "popularity", "base embeddings", "bayes")
            for targets in ("all", "positive")
        ]
        ndcg = {r["model"]: r["ndcg@10"] for r in found["retrieval"] if r["targets"] == "all"}
        assert ndcg["bayes"] == max(ndcg.values())
        # 48 users of about 24 events: the split is the data's, not the run's.
        impressions = found["run"]["dataset"]["impressions"]
        total = sum(b["count"] for b in found["buckets"]["history_length"]["amen"])
        assert total == impressions["test"]

    def test_scores_of_every_test_impression_are_kept(self, finished):
        found, kept = results.read_results(finished), read_scores(finished / "seed_0/scores.npz")
        assert len(kept.label) == found["run"]["dataset"]["impressions"]["test"]
        assert kept.fingerprint == found["run"]["dataset"]["test_fingerprint"]
        for row in found["rows"]:
            values = ctr.evaluate(kept.label, kept.logits[row["model"]][row["history"]], kept.user)
            for metric, value in values.items():
                assert row[metric] == pytest.approx(value, abs=1e-6)

    def test_differences_of_every_model_from_base_and_of_amen_from_its_parts(self, finished):
        found = results.read_results(finished)
        aucs = {(r["model"], r["history"]): r["auc"] for r in found["rows"]}
        lifts = [e for e in found["differences"] if e["metric"] == "auc"]
        models = {e["model"] for e in lifts}
        # The simulator knows the bound.
        assert models == {"nif", "tsp", "amen", "selected", "bayes"}
        parts = {(e["model"], e["reference"]) for e in lifts if e["reference"] != "base"}
        assert parts == {("amen", "nif"), ("amen", "tsp")}
        assert len(lifts) == 14 and len(found["differences"]) == 14 * len(bootstrap.SIGNS)
        for lift in lifts:
            model, reference, history = lift["model"], lift["reference"], lift["history"]
            expected = aucs[model, history] - aucs[reference, history]
            assert lift["mean"] == pytest.approx(expected, abs=1e-6)
            same = model == "selected" and found["selection"][0]["selected"] == reference
            assert lift["low"] == lift["high"] == 0 if same else lift["low"] < lift["high"]

    def test_selected_is_the_best_row_on_validation(self, finished):
        found = results.read_results(finished)
        (entry,) = found["selection"]
        best = {}
        for record in read_metrics(finished / "seed_0" / "metrics.jsonl"):
            if "validation/auc" in record["values"]:
                value = record["values"]["validation/auc"]
                best[record["stage"]] = max(value, best.get(record["stage"], 0))
        assert entry == {
            "seed": 0,
            "selected": max(("base", "nif", "tsp", "amen"), key=best.get),
            "metric": "auc",
            "validation": pytest.approx({row: best[row] for row in ("base", "nif", "tsp", "amen")}),
        }
        kept = read_scores(finished / "seed_0/scores.npz").logits
        for history in ("online", "frozen"):
            np.testing.assert_array_equal(
                kept["selected"][history], kept[entry["selected"]][history]
            )
        assert not (finished / "seed_0" / "selected").exists()
        assert "Selected on validation" in (finished / "report.html").read_text()

    def test_pictures_and_page_are_there(self, finished):
        names = {path.name for path in (finished / "plots").iterdir()}
        assert {"training_curves.png", "calibration_scores.png", "auc_by_history.png"} <= names
        assert "flow_map.png" in names
        page = (finished / "report.html").read_text()
        assert page.count("data:image/png;base64") == len(names)

    def test_the_workdir_has_the_records_of_all_seeds(self, finished):
        merged = read_metrics(finished / "metrics.jsonl")
        own = read_metrics(finished / "seed_0" / "metrics.jsonl")
        assert own
        assert merged == [{"seed": 0} | record for record in own]

    def test_a_second_run_prints_and_trains_nothing(self, finished, capsys, monkeypatch):
        monkeypatch.setattr(pipeline, "train_stage", lambda *_: pytest.fail("trained again"))
        runner.run(nif.get_config(TINY_NIF), finished, "train")
        assert "| amen" in capsys.readouterr().out

    def test_another_config_is_refused_with_the_keys_that_differ(self, finished):
        config = nif.get_config(TINY_NIF + ",tsp.weight=0.5")
        with pytest.raises(runner.ConfigError, match=r"tsp\.weight: 0\.05 -> 0\.5"):
            runner.run(config, finished, "train")

    def test_a_run_that_fails_before_it_trains_claims_nothing(self, tmp_path):
        wrong = "files,smoke,source.path=nowhere.parquet"
        for mode in ("train", "evaluate"):
            with pytest.raises(runner.DataError, match="nowhere"):
                runner.run(base.get_config(wrong), tmp_path / "run", mode)
        assert not (tmp_path / "run").exists()
        # Nor does one whose config asks for what is not there: it may be mended and run again.
        for mistake in ("flow.generator_item_emb=ad", "train.metric=logloss", "init_from=nowhere"):
            config = nif.get_config(f"{TINY_NIF},{mistake}")
            with pytest.raises(runner.ConfigError, match=mistake.split("=")[0].replace(".", r"\.")):
                runner.run(config, tmp_path / "run", "train")
            assert not (tmp_path / "run" / "config.json").exists()

    def test_other_events_under_the_same_config_are_refused(self, tmp_path):
        file, workdir = tmp_path / "events.csv", tmp_path / "run"
        rng = np.random.default_rng(0)
        events = pd.DataFrame(
            {
                "user_id": np.repeat(np.arange(40), 12),
                "item_id": rng.integers(0, 20, 480),
                "timestamp": 1_700_000_000 + 3_600 * np.arange(480),
                "label": rng.integers(0, 2, 480),
            }
        )
        events.to_csv(file, index=False)
        text = TINY.replace("synthetic", "files", 1)
        text = ",".join(w for w in text.split(",") if not w.startswith("source."))
        config = base.get_config(f"{text},source.path={file},train.epochs=1.0,rows=base")
        runner.run(config, workdir, "train")
        runner.run(config, workdir, "evaluate")
        events.assign(label=1 - events["label"]).to_csv(file, index=False)
        with pytest.raises(runner.ConfigError, match="events are not those"):
            runner.run(config, workdir, "evaluate")

    def test_more_seeds_and_rows_keep_what_is_trained(self, tmp_path, monkeypatch):
        text = TINY + ",train.epochs=1.0,rows="
        runner.run(base.get_config(text + "base"), tmp_path, "train")
        first = results.read_results(tmp_path)["rows"]
        more = base.get_config(text + "base+lr,num_seeds=2")
        with pytest.raises(runner.ConfigError, match=r"num_seeds: 1 -> 2\n  rows: "):
            runner.run(more, tmp_path, "evaluate")
        trained = []
        step = loop._Stepper.run

        def recorded(self, state, first, *rest):
            trained.extend([self._stage.name] * (first == 0))  # a start from scratch
            return step(self, state, first, *rest)

        monkeypatch.setattr(loop._Stepper, "run", recorded)
        runner.run(more, tmp_path, "train")
        assert trained == ["lr", "base", "lr"]
        rows = results.read_results(tmp_path)["rows"]
        assert {(r["model"], r["seed"]) for r in rows} >= {
            (model, seed) for model in ("base", "lr") for seed in (0, 1)
        }
        for row in first:
            (same,) = (
                r
                for r in rows
                if all(r[k] == row[k] for k in ("model", "seed", "split", "history"))
            )
            assert same["auc"] == row["auc"]
        runner.run(more, tmp_path, "train")
        assert len(trained) == 3
        with pytest.raises(runner.ConfigError, match=r"num_seeds: 2 -> 1"):
            runner.run(base.get_config(text + "base"), tmp_path, "train")

    def test_predictions_agree_with_the_results(self, finished):
        runner.run(nif.get_config(TINY_NIF), finished, "predict")
        table = pd.read_parquet(finished / "predictions.parquet")
        row = next(r for r in results.read_results(finished)["rows"] if r["model"] == "amen")
        from sklearn.metrics import roc_auc_score

        score = roc_auc_score(table["label"], table["amen_online_seed_0"])
        assert score == pytest.approx(row["auc"], abs=1e-6)

    def test_evaluate_repeats_the_metrics_without_training(self, finished, monkeypatch):
        before = results.read_results(finished)
        monkeypatch.setattr(loop._Stepper, "run", lambda *_: pytest.fail("trained"))
        runner.run(nif.get_config(TINY_NIF), finished, "evaluate")
        after = results.read_results(finished)
        for key in ("auc", "gauc", "logloss", "ece", "parameters"):
            assert [r[key] for r in before["rows"]] == [r[key] for r in after["rows"]]
        assert before["retrieval"] == after["retrieval"]

    def test_evaluate_of_an_empty_workdir_says_to_train(self, tmp_path):
        with pytest.raises(runner.CheckpointError, match="--mode=train first"):
            runner.run(base.get_config(TINY), tmp_path, "evaluate")

    def test_a_bucket_is_no_workdir(self):
        with pytest.raises(runner.ConfigError, match="mount the bucket"):
            runner.run(base.get_config(TINY), pathlib.Path("gs://bucket/run"), "train")


class TestOnline:
    """--mode=ab on the finished run."""

    SETTINGS = ",ab.impressions=6,ab.slate=7,ab.resamples=100"

    def test_arms_lifts_and_ceiling(self, finished, capsys):
        runner.run(nif.get_config(TINY_NIF + self.SETTINGS), finished, "ab")
        assert "| oracle" in capsys.readouterr().out
        assert "Online A/B test" in (finished / "report.html").read_text()
        found = json.loads((finished / "ab.json").read_text())
        assert found["ab"]["slate"] == 7
        arms = {arm["model"]: arm for arm in found["arms"]}
        assert list(arms) == ["base", "nif", "tsp", "amen", "selected", "random", "oracle"]
        # `selected` is scored as the variant that was chosen.
        (selection,) = results.read_results(finished)["selection"]
        assert arms["selected"] == arms[selection["selected"]] | {"model": "selected"}
        base, oracle = arms["base"], arms["oracle"]
        assert (base["lift"], base["low"], base["high"], base["true_lift"]) == (0, 0, 0, 0)
        assert oracle["true_ctr"] == max(arm["true_ctr"] for arm in found["arms"])
        assert oracle["low"] <= oracle["lift"] <= oracle["high"]
        assert oracle["low"] > 0 and oracle["oracle_share"] == 1
        # The same command gives the same result; another reference gives another one.
        runner.run(nif.get_config(TINY_NIF + self.SETTINGS), finished, "ab")
        assert json.loads((finished / "ab.json").read_text()) == found
        runner.run(nif.get_config(TINY_NIF + self.SETTINGS + ",ab.reference=nif"), finished, "ab")
        again = json.loads((finished / "ab.json").read_text())["arms"]
        assert again[1]["lift"] == 0 and again[1]["ctr"] == arms["nif"]["ctr"]

    def test_scores_are_those_of_candidates_served_one_user_at_a_time(self, finished):
        run = dataclasses.replace(
            make_run(finished / "seed_0", devices=2), train=False, config=nif.get_config(TINY_NIF)
        )
        stages, frozen = pipeline.run_seed(run)
        traffic = draw_traffic(
            run.dataset.movelines, bounds.load_world(run), impressions=2, slate=5, seed=1
        )
        scores = ab.score_arms(run, stages, frozen, traffic)["amen"]
        laid, shard_rows, place = lay_behind(run.dataset, traffic)
        built = finetune.make(dataclasses.replace(run, dataset=laid), "amen", frozen)
        trained = stages["amen"]
        arrays = jax.tree.map(lambda x: x[0], run.parallel.unshard(built.data.arrays))
        shared = run.parallel.unreplicate(built.data.constants)
        for impression in (0, 11):
            row = shard_rows[0][5 * impression : 5 * impression + 1]
            index = {"row": row, "weight": np.ones(1), "pair": np.zeros(0)}
            batch = built.scorers["scores"].gather(arrays, index)
            v = place[5 * impression] // 5
            candidates = {**index, "row": shard_rows[0][5 * impression : 5 * impression + 5]}
            counted = gather_statistics(candidates, **arrays["statistics"])
            batch = batch._replace(statistics=counted)
            alone = built.predict_candidates(
                trained.params, trained.variables, shared, batch, traffic.slate[v]
            )["logit"]
            np.testing.assert_allclose(alone, scores[v], atol=1e-5)
        assert np.ptp(scores) > 1e-3

    def test_data_without_a_known_law_is_refused(self, tmp_path):
        log = pd.DataFrame(
            {
                "user_id": ["u", "v"] * 10,
                "item_id": ["a", "b"] * 10,
                "timestamp": range(20),
                "label": [0, 1] * 10,
            }
        )
        log.to_csv(tmp_path / "log.csv", index=False)
        config = nif.get_config(f"files,smoke,source.path={tmp_path}/log.csv,xla_flags=")
        with pytest.raises(runner.DataError, match="probabilities of data source 'files' are not"):
            runner.run(config, tmp_path / "run", "ab")

    def test_an_untrained_workdir_is_told_to_train(self, tmp_path):
        with pytest.raises(runner.CheckpointError, match="--mode=train first"):
            runner.run(nif.get_config(TINY_NIF), tmp_path, "ab")

    def test_settings_that_cannot_be_used(self, tmp_path):
        for setting, message in (
            ("ab.reference=bass", "did you mean 'base'"),
            ("ab.slate=0", "config.ab.slate=0 is out of range: a whole number, 1 or more"),
        ):
            with pytest.raises(runner.ConfigError, match=message):
                runner.run(nif.get_config(f"{TINY_NIF},{setting}"), tmp_path, "ab")


def test_what_a_search_reads_of_a_run_is_its_validation(finished):
    read = results.read_results(finished)
    config, (entry,) = read["run"]["config"], read["selection"]
    assert search.objective(finished, config) == entry["validation"][entry["selected"]]
    found = search.evaluations(finished, config)
    assert [name for name, _ in itertools.groupby(found, lambda one: one[0])] == [
        "base",
        "nif",
        "tsp",
        "amen",
    ]
    numbers, values = zip(*[one[1:] for one in found], strict=True)
    assert sorted(set(numbers)) == list(numbers) and sorted(values) == list(values)
    assert values[-1] == max(entry["validation"].values())
    alone = config | {"rows": ["base", "nif"]}
    assert {stage for stage, _, _ in search.evaluations(finished, alone)} == {"nif"}
    assert search.evaluations(finished, config | {"seed": 7}) == []
