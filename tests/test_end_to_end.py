"""Whole runs on small synthetic data: results, resumption, refusals, frozen means frozen."""

import dataclasses
import gc
import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest

from benchmarks.common import random_ids
from configs import base, hybrid, nif
from nif_jax.data import splits
from nif_jax.experiment import ab, pipeline, runner, start
from nif_jax.metrics import ctr, mix
from nif_jax.metrics.writer import MetricWriter, read_metrics
from nif_jax.reports import results
from nif_jax.reports.scores import read_scores
from nif_jax.simulation import bounds
from nif_jax.simulation.traffic import draw_traffic, lay_behind
from nif_jax.stages import base as base_stage
from nif_jax.stages import context, finetune, flow_cache, generator, ranking
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.training import checkpoint, loop
from nif_jax.training.devices.pmap import Pmap
from nif_jax.training.scoring import Scorer, ScoringPlan
from nif_jax.training.stage import Trained

TINY = ",".join(
    [
        "synthetic,smoke,source.num_users=48,source.num_items=30,source.events_per_user=24.0",
        "ranker.dim=8,ranker.attention=8,ranker.tower=16,ranker.calibration=4",
        "data.history_length=6,train.batch_size=64,train.microbatch=0,train.epochs=2.0",
        "train.steps_per_dispatch=2,eval.batch_size=16",
    ]
)
TINY_NIF = ",".join(
    [
        TINY,
        "generator.dim=8,generator.heads=2,pretrain.batch_size=16,pretrain.context=6",
        "pretrain.epochs=2.0,pretrain.steps_per_dispatch=2,pretrain.eval_epochs=1.0",
        "flow.horizon=2",
    ]
)
TINY_HYBRID = ",".join(
    [
        TINY_NIF,
        "tokenizer.codes=4,tokenizer.dim=4,tokenizer.hidden=8,tokenize.batch_size=16",
        "intent.dim=8,intent.hidden=8,genci.side=8,eval.beams=10",
    ]
)
BASELINE_ROWS = ("base", "popularity", "lr", "deepfm", "dcn", "din", "sasrec", "sasrec_tsp")
TINY_BASELINES = ",".join(
    [
        TINY,
        "baselines.encoder_layers=1,baselines.prior=5.0,tsp.min_events=1,data.label_share=0.7",
        f"rows={'+'.join(BASELINE_ROWS)}",
    ]
)


_WRITERS = []
"""Of the runs that a test makes by hand."""


@pytest.fixture(autouse=True)
def _close_writers():
    yield
    while _WRITERS:
        _WRITERS.pop().close()


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIF_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of all four rows."""
    workdir = tmp_path_factory.mktemp("runs") / "nif"
    runner.run(nif.get_config(TINY_NIF), workdir, "train")
    return workdir


@pytest.fixture(scope="module")
def finished_hybrid(tmp_path_factory):
    """A finished run of the hybrid, which has every stage but TSP and flow alone."""
    workdir = tmp_path_factory.mktemp("runs") / "hybrid"
    runner.run(hybrid.get_config(TINY_HYBRID), workdir, "train")
    return workdir


@pytest.fixture(scope="module")
def finished_baselines(tmp_path_factory):
    """A finished run of all baselines."""
    workdir = tmp_path_factory.mktemp("runs") / "baselines"
    runner.run(nif.get_config(TINY_BASELINES), workdir, "train")
    return workdir


def make_run(folder: pathlib.Path, text: str = TINY_NIF, devices: int = 1) -> context.Context:
    config, parallel = nif.get_config(text), Pmap(jax.devices()[:devices])
    writer = MetricWriter(folder)
    _WRITERS.append(writer)
    return context.Context(
        config=config,
        seed=0,
        folder=folder,
        dataset=context.load_dataset(config, parallel),
        parallel=parallel,
        writer=writer,
        train=True,
    )


def best_parameters(folder: pathlib.Path):
    """Leaves of a stage's best checkpoint, read by Orbax alone."""
    best = next(p for p in (folder / "best").iterdir() if p.name.isdigit())
    restored = ocp.StandardCheckpointer().restore(best / "tree")
    return jax.tree.map(np.asarray, restored)


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
        assert len(lifts) == 14 and len(found["differences"]) == 42
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
        for mistake in ("flow.returned=ad", "train.metric=logloss", "init_from=nowhere"):
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
        # Of the selected row, what its own is: it is built as the row which it is.
        (selection,) = results.read_results(finished)["selection"]
        assert arms["selected"] == arms[selection["selected"]] | {"model": "selected"}
        base, oracle = arms["base"], arms["oracle"]
        assert (base["lift"], base["low"], base["high"], base["true_lift"]) == (0, 0, 0, 0)
        assert oracle["true_ctr"] == max(arm["true_ctr"] for arm in found["arms"])
        assert oracle["low"] <= oracle["lift"] <= oracle["high"]
        assert oracle["low"] > 0 and oracle["oracle_share"] == 1
        # The same command answers the same; another reference is another answer.
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


class _KilledError(BaseException):
    """Stands for the signal that ends a process."""


class TestResume:
    @pytest.mark.parametrize("saves", [1, 2])
    def test_a_killed_run_ends_with_the_same_bits(self, tmp_path, monkeypatch, saves):
        config = base.get_config(TINY)
        runner.run(config, tmp_path / "whole", "train")
        save, count = checkpoint.Checkpointer.save_last, iter(range(100))

        def save_and_die(self, *args):
            save(self, *args)
            if next(count) + 1 == saves:
                raise _KilledError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpointer, "save_last", save_and_die)
            with pytest.raises(_KilledError):
                runner.run(config, tmp_path / "broken", "train")
        runner.run(config, tmp_path / "broken", "train")
        whole, broken = (tmp_path / n / "seed_0" for n in ("whole", "broken"))
        jax.tree.map(
            np.testing.assert_array_equal,
            best_parameters(whole / "base"),
            best_parameters(broken / "base"),
        )

        def losses(folder):
            records = read_metrics(folder / "metrics.jsonl")
            keep = ("train/loss", "validation/auc")
            return [
                (r["step"], {k: v for k, v in r["values"].items() if k in keep}) for r in records
            ]

        assert losses(whole) == losses(broken)

    def test_killed_between_best_and_last(self, tmp_path, monkeypatch):
        config = base.get_config(TINY)

        def die(*_):
            raise _KilledError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpointer, "save_last", die)
            with pytest.raises(_KilledError):
                runner.run(config, tmp_path, "train")
        runner.run(config, tmp_path, "train")
        assert results.read_results(tmp_path)["rows"]

    def test_seeds_decide_the_bits(self, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            runner.run(base.get_config(TINY + f",seed={seed}"), tmp_path / name, "train")
        a, b, c = (
            best_parameters(tmp_path / name / f"seed_{seed}" / "base")["params"]["head"]
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        jax.tree.map(np.testing.assert_array_equal, a, b)
        assert not np.array_equal(a["Dense_0"]["kernel"], c["Dense_0"]["kernel"])

    def test_a_half_written_checkpoint_is_passed_over(self, tmp_path):
        config = base.get_config(TINY)
        runner.run(config, tmp_path, "train")
        before = results.read_results(tmp_path)["rows"][0]["auc"]
        last = tmp_path / "seed_0" / "base" / "last"
        (last / "9999.orbax-checkpoint-tmp").mkdir()
        runner.run(config, tmp_path, "evaluate")
        assert results.read_results(tmp_path)["rows"][0]["auc"] == before

    def test_a_checkpoint_of_other_shapes_is_refused(self, tmp_path):
        runner.run(base.get_config(TINY), tmp_path / "old", "train")
        text = TINY.replace("ranker.dim=8", "ranker.dim=4")
        with pytest.raises(checkpoint.CheckpointError, match="other arrays"):
            runner.run(
                base.get_config(f"{text},init_from={tmp_path}/old"), tmp_path / "new", "train"
            )

    def test_init_from_starts_where_the_other_run_ended(self, tmp_path):
        runner.run(base.get_config(TINY), tmp_path / "old", "train")
        run = make_run(tmp_path / "new", f"{TINY_NIF},init_from={tmp_path}/old")
        params, _ = start.initial_state(run, base_stage.make(run))
        old = best_parameters(tmp_path / "old" / "seed_0" / "base")["params"]
        jax.tree.map(np.testing.assert_array_equal, params, old)
        # Damage to it is not taken for damage to this run's own stage, and the file is named.
        (manifest,) = (tmp_path / "old").glob("seed_0/base/best/*/tree/manifest.ocdbt")
        manifest.write_bytes(manifest.read_bytes()[:-1] + b"x")
        message = r"config.init_from: .*tree/manifest\.ocdbt has changed.*command of that workdir"
        with pytest.raises(checkpoint.CheckpointError, match=message):
            start.initial_state(run, base_stage.make(run))


class TestTraining:
    def test_a_loss_that_is_not_finite_names_step_and_rows(self, tmp_path, monkeypatch):
        config = base.get_config(TINY + ",train.learning_rate=1e38,train.clip_norm=0.0")
        with pytest.raises(loop.NonFiniteLossError, match=r"loss of step \d+ is .*'row': \["):
            runner.run(config, tmp_path, "train")

    def test_one_batch_can_be_learned_by_heart(self, tmp_path):
        text = TINY.replace("train.epochs=2.0", "train.epochs=150.0")
        run = make_run(
            tmp_path,
            text + ",ranker.dropout=0.0,ranker.id_dropout=0.0,"
            "train.learning_rate=0.01,train.weight_decay=0.0,train.patience=0,"
            "train.eval_epochs=150.0,data.label_share=0.08",
        )
        built = base_stage.make(run)
        assert built.plan.steps_per_epoch <= 2
        pipeline.train_stage(run, built)
        losses = [
            r["values"]["train/loss"]
            for r in read_metrics(tmp_path / "metrics.jsonl")
            if "train/loss" in r["values"]
        ]
        assert losses[-1] < 0.02 < 0.3 < losses[0]

    def test_frozen_means_frozen(self, tmp_path):
        run = make_run(tmp_path)
        params, _ = start.initial_state(run, generator.make(run))
        before = jax.tree.map(np.copy, params)
        frozen = flow_cache.generator_outputs(run, params)
        built = finetune.make(run, "amen", frozen)
        pipeline.train_stage(run, built)
        jax.tree.map(np.testing.assert_array_equal, before, frozen.params)
        after = run.parallel.unreplicate(built.data.constants)
        jax.tree.map(np.testing.assert_array_equal, before, after["generator"])
        np.testing.assert_array_equal(frozen.vectors, after["returned"])

    def test_a_trained_row_mixes_with_the_weight_that_validation_chose(self, tmp_path):
        run = make_run(tmp_path, TINY_NIF + ",train.epochs=2.0")
        params, _ = start.initial_state(run, generator.make(run))
        # An untrained head is wrong or right by chance: turned round, this one earns a weight.
        last = params["responder"]["perceptron"]["Dense_1"]
        params["responder"]["perceptron"]["Dense_1"] = jax.tree.map(np.negative, last)
        built = finetune.make(run, "nif", flow_cache.generator_outputs(run, params))
        stage = pipeline.train_stage(run, built)
        plan, metrics = ranking.validation_plan(run), stage.metrics
        found, weight = stage.score(plan), metrics["mix"]
        two = found["ranker"], found["response"]
        mean = (1 - weight) * found["ranker"] + weight * found["response"]
        np.testing.assert_allclose(found["logit"], mean, atol=1e-5)
        judged = [
            ranking.evaluate_ranking(run.dataset, plan, mix.mean_logit(*two, w))
            for w in mix.WEIGHTS
        ]
        best = max(m["auc"] for m in judged)
        assert best > min(m["auc"] for m in judged)
        np.testing.assert_allclose(metrics["auc"], best, atol=1e-6)
        assert metrics["auc"] == ranking.evaluate_ranking(run.dataset, plan, found["logit"])["auc"]
        params, variables = start.initial_state(run, built)
        assert variables == {"mix": 0} and weight > 0
        like = {"params": params, "variables": variables}
        kept = checkpoint.load_best(run.folder / "nif", like)["variables"]
        assert kept == {"mix": np.float32(weight)}

    @pytest.mark.parametrize("sampled", [0, 1])
    def test_a_generator_is_chosen_by_what_its_loss_weighs(self, tmp_path, sampled):
        run = make_run(tmp_path, TINY_NIF + f",flow_loss.response=3.0,data.negatives={sampled}")
        built = generator.make(run)
        state = run.parallel.replicate(start.initial_state(run, built))
        found, plan = built.evaluate(*state).metrics, ranking.validation_plan(run)
        assert run.dataset.sampled[plan.rows].any() == bool(sampled)
        answers = run.dataset.movelines.label[plan.rows]
        said = built.scorers["labels"](plan, *state)["response"]
        auc = ctr.auc(answers, said)
        # What was sampled did not come next.
        plan = ranking.validation_plan(run, sampled=False)
        events = built.scorers["scores"](plan, *state)["rank"]
        assert found["mrr"] == pytest.approx(np.mean(1 / events), abs=1e-6)
        assert found["response_auc"] == pytest.approx(auc, abs=1e-6)
        assert found["quality"] == pytest.approx(found["hr@10"] + 3.0 * auc, abs=1e-6)

    def test_a_tuned_generator_starts_as_the_frozen_one_and_learns(self, tmp_path):
        run = make_run(tmp_path, TINY_NIF + ",flow.cache=False,flow.response=input")
        params, _ = start.initial_state(run, generator.make(run))
        frozen = flow_cache.generator_outputs(run, params)
        fixed = finetune.make(run, "amen", frozen)
        run.config.flow.tune = True
        tuned = finetune.make(run, "amen", frozen)
        source = pipeline._source(run, "amen", {}, frozen)
        initial, _ = start.initial_state(run, tuned, source)
        jax.tree.map(np.testing.assert_array_equal, initial["generator"], params)
        # Whatever the weights of the ranker, the same generator gives the same scores.
        plan = ranking.validation_plan(run, 20, sampled=False)
        one, other = (
            built.scorers["scores"](plan, *run.parallel.replicate((initial, {})))["logit"]
            for built in (fixed, tuned)
        )
        np.testing.assert_allclose(one, other, atol=1e-5)
        learned = pipeline.train_stage(run, tuned, source).params["generator"]
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, learned, params)
        assert all(jax.tree.leaves(moved)), moved

    def test_a_ranker_trains_on_answers_of_a_generator_without_the_user(
        self, tmp_path, monkeypatch
    ):
        run = make_run(tmp_path, TINY_NIF + ",flow.response=input,flow.cross_fit=2", devices=2)
        states = []

        def untrained(run, built, source, reads):
            params, _ = start.initial_state(run, built, source)
            params = jax.tree.map(lambda x: x * (1.5 + len(states)), params)
            states.append(run.parallel.replicate((params, {})))
            return Trained(built, params, {}, {}, 0, 0.0, states[-1])

        monkeypatch.setattr(pipeline, "train_stage", untrained)
        response = pipeline.cross_fit(run, {}, None)
        # Row for row what the generator of the user's fold says, and nothing outside train.
        data, said = run.dataset, []
        plan = ScoringPlan(data, splits.TRAIN, run.config.eval.batch_size)
        for fold, state in enumerate(states):
            said.append(generator.make(run, (fold, 2)).scorers["labels"](plan, *state)["response"])
        expected = np.zeros(data.movelines.num_events, np.float32)
        expected[plan.rows] = np.choose(data.movelines.user[plan.rows] % 2, said)
        assert np.abs(said[0] - said[1]).max() > 1e-3
        for shard, rows in enumerate(data.shard_rows):
            np.testing.assert_allclose(response[shard][: len(rows)], expected[rows], atol=1e-5)

        params, _ = start.initial_state(run, generator.make(run))
        frozen = dataclasses.replace(flow_cache.generator_outputs(run, params), response=response)
        built = finetune.make(run, "nif", frozen)
        arrays = jax.tree.map(lambda x: x[1], run.parallel.unshard(built.data.arrays))
        index = jax.tree.map(lambda x: x[0], built.plan.indices(0, 1))
        batch = built.gather(arrays, index)
        np.testing.assert_array_equal(batch.response, response[1][index["row"]] * batch.flow_mask)
        assert batch.response.any()

    def test_cached_flows_score_as_flows_computed_in_the_step(self, tmp_path):
        # Movelines no longer than half a window, where both contexts are the whole past.
        text = TINY_NIF.replace("pretrain.context=6", "pretrain.context=120")
        cached = make_run(tmp_path / "a", text)
        stepwise = make_run(tmp_path / "b", text + ",flow.cache=False")
        params, _ = start.initial_state(cached, generator.make(cached))
        scores = []
        for run in (cached, stepwise):
            built = finetune.make(run, "nif", flow_cache.generator_outputs(run, params))
            state = run.parallel.replicate(start.initial_state(run, built))
            scores.append(built.scorers["scores"](ranking.validation_plan(run), *state))
        for name in ("logit", "response"):
            one, other = (found[name] for found in scores)
            np.testing.assert_allclose(one, other, atol=2e-5)
            assert np.ptp(one) > 1e-4
        # The head that the generator is judged by says the same.
        made, state = generator.make(cached), cached.parallel.replicate((params, {}))
        said = made.scorers["labels"](ranking.validation_plan(cached), *state)["response"]
        np.testing.assert_allclose(said, scores[0]["response"], atol=2e-5)

    def test_cross_stage_copies_reach_the_generator_and_return(self, tmp_path):
        run = make_run(tmp_path, TINY_NIF + ",flow.returned=init")
        base_params, _ = start.initial_state(run, base_stage.make(run))
        marked = jax.tree.map(lambda x: x + 1.0, base_params)
        params, _ = start.initial_state(run, generator.make(run), marked)
        jax.tree.map(np.testing.assert_array_equal, params["items"], marked["items"])
        jax.tree.map(np.testing.assert_array_equal, params["context"], marked["context"])
        frozen = flow_cache.generator_outputs(run, params)
        source = pipeline._source(run, "amen", base_params, frozen)
        ranker, _ = start.initial_state(run, finetune.make(run, "amen", frozen), source)
        jax.tree.map(np.testing.assert_array_equal, ranker["items"], params["items"])
        assert not np.array_equal(ranker["context"]["gap"], marked["context"]["gap"])

    def test_two_shards_score_what_one_scores(self, tmp_path):
        scores = []
        for devices in (1, 2):
            run = make_run(tmp_path / str(devices), devices=devices)
            built = base_stage.make(run)
            state = run.parallel.replicate(start.initial_state(run, built))
            plan = ranking.validation_plan(run)
            logits = built.scorers["scores"](plan, *state)["logit"]
            scores.append(logits[np.argsort(plan.rows)])
        np.testing.assert_allclose(*scores, atol=1e-5)

    def test_host_and_device_input_score_and_train_alike(self, tmp_path):
        losses = []
        for choice in ("device", "host"):
            text = f"{TINY_NIF},data.input={choice}"
            run = make_run(tmp_path / choice, text)
            built = base_stage.make(run)
            assert built.data.on_device == (choice == "device")
            pipeline.train_stage(run, built)
            records = read_metrics(tmp_path / choice / "metrics.jsonl")
            losses.append(
                [r["values"].get("train/loss", r["values"].get("validation/auc")) for r in records]
            )
        np.testing.assert_allclose(*losses, rtol=1e-5)


def test_stages_share_the_store_on_the_devices_and_count_what_they_add(tmp_path):
    run = make_run(tmp_path)
    placed = base_stage.make(run).data
    assert generator.make(run).data.arrays["store"].item is placed.arrays["store"].item
    flow = {"flow": np.zeros((1, 1000, 8), np.float32)}
    size = sum(x.nbytes for x in jax.tree.leaves(run.dataset.stores))
    small = make_run(tmp_path, f"{TINY_NIF},data.device_bytes={size + 1000}")
    assert small.place().on_device and not small.place(flow).on_device
    # Other data, such as A/B traffic behind the log, is never what was placed before.
    other = dataclasses.replace(run, dataset=load_other(run))
    assert other.place().arrays["store"].item is not placed.arrays["store"].item


def load_other(run):
    return context.load_dataset(nif.get_config(f"{TINY_NIF},data.seed=1"), run.parallel)


@pytest.mark.parametrize("targets", ["all", "positive"])
def test_corrections_count_what_can_be_a_target(targets, tmp_path):
    run = make_run(tmp_path, f"{TINY_NIF},flow_loss.targets={targets},data.label_share=0.2")
    found = run.parallel.unreplicate(generator.make(run).data.constants["frequency"])
    data = run.dataset
    chosen = (data.split == 0) & ((data.answer == 1) | (targets == "all"))
    expected = np.bincount(data.movelines.item[chosen], minlength=len(found)) / chosen.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_scorer_returns_rows_in_plan_order(tmp_path):
    run = make_run(tmp_path, devices=2)
    plan = ranking.validation_plan(run)
    data = run.place()

    def echo(params, variables, frozen, batch):
        return {"item": batch.item}

    from nif_jax.stages.base import gather_rows

    nothing = run.parallel.replicate(({}, {}))
    found = Scorer(echo, gather_rows(3), data, run.parallel)(plan, *nothing)["item"]
    np.testing.assert_array_equal(found, run.dataset.movelines.item[plan.rows])
    assert json.dumps(len(found))


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
            reads_history = row in ("base", "din", "sasrec", "sasrec_tsp")
            assert (loss[row, "online"] != loss[row, "frozen"]) == reads_history
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
    def test_self_supervision_fades_in_the_share_of_steps_asked_for(self, tmp_path, row, share):
        config = hybrid.get_config(TINY_HYBRID + ",train.epochs=4.0,genci.delta_fade=0.25")
        run = dataclasses.replace(make_run(tmp_path), config=config)
        stage = finetune.make(run, row, random_ids(run))
        (source,) = (a for a in stage.loss_fn.args if isinstance(a, CohortInput))
        assert source.fade == share * 4 * stage.plan.steps_per_epoch

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


def test_a_seed_leaves_nothing_on_the_devices_to_the_next(tmp_path, monkeypatch):
    run_seed, held = pipeline.run_seed, []

    def recorded(run):
        gc.collect()
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        return run_seed(run)

    monkeypatch.setattr(pipeline, "run_seed", recorded)
    jax.clear_caches()  # what the tests before hold
    text = f"{TINY_NIF},rows=base+nif,num_seeds=3,train.epochs=1.0,pretrain.epochs=1.0"
    runner.run(nif.get_config(text), tmp_path / "run", "train")
    assert held == [held[0]] * 3
