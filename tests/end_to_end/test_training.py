"""What stages train on and start from, with whole runs or stages of one."""

import dataclasses
import functools
import gc
import json

import jax
import numpy as np
import pytest

from configs import base, nif
from nif_jax.data import splits
from nif_jax.experiment import pipeline, runner, start
from nif_jax.metrics import blend, ctr
from nif_jax.metrics.writer import read_metrics
from nif_jax.stages import base as base_stage
from nif_jax.stages import context, finetune, flow_cache, generator, ranking
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.training import checkpoint, loop
from nif_jax.training.scoring import Scorer, ScoringPlan
from nif_jax.training.stage import Trained
from tests.end_to_end.runs import TINY, TINY_NIF, make_run


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
        np.testing.assert_array_equal(frozen.vectors, after["generator_item_emb"])

    def test_a_trained_row_mixes_with_the_weight_that_validation_chose(self, tmp_path):
        run = make_run(tmp_path, TINY_NIF + ",train.epochs=2.0,train.learning_rate=1e-6")
        params, _ = start.initial_state(run, generator.make(run))
        plan = ranking.validation_plan(run)
        # An untrained head is right or wrong by chance; where it is wrong, it is turned round, so
        # that it earns a weight beside a ranker that learns next to nothing.
        scorer = generator.make(run).scorers["labels"]
        guess = scorer(plan, *run.parallel.replicate((params, {})))["label_logit"]
        if ranking.evaluate_ranking(run.dataset, plan, guess)["auc"] < 0.5:
            last = params["responder"]["perceptron"]["Dense_1"]
            params["responder"]["perceptron"]["Dense_1"] = jax.tree.map(np.negative, last)
        built = finetune.make(run, "nif_labels", flow_cache.generator_outputs(run, params))
        stage = pipeline.train_stage(run, built)
        metrics = stage.metrics
        found, weight = stage.score(plan), metrics["blend_weight"]
        two = found["ranker"], found["label_head"]
        mean = (1 - weight) * found["ranker"] + weight * found["label_head"]
        np.testing.assert_allclose(found["raw_logit"], mean, atol=1e-5)
        judged = [
            ranking.evaluate_ranking(run.dataset, plan, blend.mean_logit(*two, w))
            for w in blend.WEIGHTS
        ]
        best = max(m["auc"] for m in judged)
        assert best > min(m["auc"] for m in judged)
        np.testing.assert_allclose(metrics["auc"], best, atol=1e-6)
        assert metrics["auc"] == ranking.evaluate_ranking(run.dataset, plan, found["logit"])["auc"]
        params, variables = start.initial_state(run, built)
        assert variables == {"blend_weight": 0} and weight > 0
        like = {"params": params, "variables": variables}
        kept = checkpoint.load_best(run.folder / "nif_labels", like)["variables"]
        assert kept == {"blend_weight": np.float32(weight)}

    @pytest.mark.parametrize("sampled", [0, 1])
    def test_a_generator_is_chosen_by_what_its_loss_weighs(self, tmp_path, sampled):
        run = make_run(tmp_path, TINY_NIF + f",flow_loss.label_head=3.0,data.negatives={sampled}")
        built = generator.make(run)
        state = run.parallel.replicate(start.initial_state(run, built))
        found, plan = built.evaluate(*state).metrics, ranking.validation_plan(run)
        assert run.dataset.sampled[plan.rows].any() == bool(sampled)
        labels = run.dataset.movelines.label[plan.rows]
        logits = built.scorers["labels"](plan, *state)["label_logit"]
        auc = ctr.auc(labels, logits)
        # What was sampled did not come next.
        plan = ranking.validation_plan(run, sampled=False)
        events = built.scorers["scores"](plan, *state)["rank"]
        assert found["mrr"] == pytest.approx(np.mean(1 / events), abs=1e-6)
        assert found["label_auc"] == pytest.approx(auc, abs=1e-6)
        assert found["quality"] == pytest.approx(found["hr@10"] + 3.0 * auc, abs=1e-6)

    def test_a_tuned_generator_starts_as_the_frozen_one_and_learns(self, tmp_path):
        run = make_run(tmp_path, TINY_NIF + ",flow.cache=False,flow.label_head=input")
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

    def test_a_ranker_trains_on_label_logits_of_a_generator_without_the_user(
        self, tmp_path, monkeypatch
    ):
        run = make_run(tmp_path, TINY_NIF + ",flow.label_head=input,flow.cross_fit=2", devices=2)
        states = []

        def untrained(run, built, source, reads):
            params, _ = start.initial_state(run, built, source)
            params = jax.tree.map(lambda x: x * (1.5 + len(states)), params)
            states.append(run.parallel.replicate((params, {})))
            return Trained(built, params, {}, {}, 0, 0.0, states[-1])

        monkeypatch.setattr(pipeline, "train_stage", untrained)
        label_logit = pipeline.cross_fit(run, {}, None)
        # Each row has the logit of the generator of the user's fold; rows outside train have 0.
        data, said = run.dataset, []
        plan = ScoringPlan(data, splits.TRAIN, run.config.eval.batch_size)
        for fold, state in enumerate(states):
            said.append(
                generator.make(run, (fold, 2)).scorers["labels"](plan, *state)["label_logit"]
            )
        expected = np.zeros(data.movelines.num_events, np.float32)
        expected[plan.rows] = np.choose(data.movelines.user[plan.rows] % 2, said)
        assert np.abs(said[0] - said[1]).max() > 1e-3
        for shard, rows in enumerate(data.shard_rows):
            np.testing.assert_allclose(label_logit[shard][: len(rows)], expected[rows], atol=1e-5)

        params, _ = start.initial_state(run, generator.make(run))
        frozen = dataclasses.replace(
            flow_cache.generator_outputs(run, params), label_logit=label_logit
        )
        built = finetune.make(run, "nif", frozen)
        arrays = jax.tree.map(lambda x: x[1], run.parallel.unshard(built.data.arrays))
        index = jax.tree.map(lambda x: x[0], built.plan.indices(0, 1))
        batch = built.gather(arrays, index)
        np.testing.assert_array_equal(
            batch.label_logit, label_logit[1][index["row"]] * batch.flow_mask
        )
        assert batch.label_logit.any()

    def test_stages_share_one_copy_of_store_and_count_features(self, tmp_path):
        run = make_run(tmp_path)
        stages = (base_stage.make(run), finetune.make(run, "tsp", GeneratorOutputs()))
        one, two = (stage.data.arrays for stage in stages)
        assert one.keys() == two.keys() == {"store", "statistics"}
        assert one["store"] is two["store"] and one["statistics"] is two["statistics"]

    def test_cached_flows_score_as_flows_computed_in_the_step(self, tmp_path):
        # Movelines no longer than half a window, where both contexts are the whole past.
        text = TINY_NIF.replace("pretrain.context=6", "pretrain.context=120")
        cached = make_run(tmp_path / "a", text)
        stepwise = make_run(tmp_path / "b", text + ",flow.cache=False")
        params, _ = start.initial_state(cached, generator.make(cached))
        scores = []
        for run in (cached, stepwise):
            built = finetune.make(run, "nif_labels", flow_cache.generator_outputs(run, params))
            state = run.parallel.replicate(start.initial_state(run, built))
            scores.append(built.scorers["scores"](ranking.validation_plan(run), *state))
        for name in ("logit", "label_head"):
            one, other = (found[name] for found in scores)
            np.testing.assert_allclose(one, other, atol=2e-5)
            assert np.ptp(one) > 1e-4
        # The head that the generator is judged by says the same.
        made, state = generator.make(cached), cached.parallel.replicate((params, {}))
        said = made.scorers["labels"](ranking.validation_plan(cached), *state)["label_logit"]
        np.testing.assert_allclose(said, scores[0]["label_head"], atol=2e-5)

    def test_cross_stage_copies_reach_the_generator_and_return(self, tmp_path):
        run = make_run(tmp_path, TINY_NIF + ",flow.generator_item_emb=init")
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


def test_longer_calls_evaluate_at_the_same_steps(tmp_path):
    """As on accelerators: a call of all steps between two evaluations, the last one shorter."""
    found = []
    for calls in (1, 0):
        text = f"{TINY_NIF},train.epochs=1.3,train.eval_epochs=0.5,train.min_steps=0"
        run = make_run(tmp_path / str(calls), text)
        built = base_stage.make(run)
        period = loop.whole_dispatches(0.5 * built.plan.steps_per_epoch, 2)
        settings = dataclasses.replace(built.settings, call_steps=calls * period or None)
        assert settings.unit == (period if calls else 2)
        assert loop.whole_dispatches(1.3 * built.plan.steps_per_epoch, 2) % period
        trained = pipeline.train_stage(run, dataclasses.replace(built, settings=settings))
        records = read_metrics(tmp_path / str(calls) / "metrics.jsonl")
        steps = [r["step"] for r in records if "validation/auc" in r["values"]]
        found.append((steps, trained.params))
    assert found[0][0] == found[1][0] and len(found[0][0]) == 3
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *(f[1] for f in found))


def load_other(run):
    return context.load_dataset(nif.get_config(f"{TINY_NIF},data.seed=1"), run.parallel)


@pytest.mark.parametrize("targets", ["all", "positive"])
def test_corrections_count_what_can_be_a_target(targets, tmp_path):
    run = make_run(tmp_path, f"{TINY_NIF},flow_loss.targets={targets},data.label_share=0.2")
    found = run.parallel.unreplicate(generator.make(run).data.constants["frequency"])
    data = run.dataset
    chosen = (data.split == 0) & ((data.event_label == 1) | (targets == "all"))
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


def test_a_seed_leaves_nothing_on_the_devices_to_the_next(tmp_path, monkeypatch):
    run_seed, held = pipeline.run_seed, []

    def recorded(run):
        gc.collect()
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        return run_seed(run)

    monkeypatch.setattr(pipeline, "run_seed", recorded)
    jax.clear_caches()  # what the tests before hold
    text = f"{TINY_NIF},rows=base+nif,num_seeds=2,train.epochs=1.0,pretrain.epochs=1.0"
    runner.run(nif.get_config(text), tmp_path / "run", "train")
    assert held == [held[0]] * 2
