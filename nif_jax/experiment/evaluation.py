"""Test scores of finished stages as results.json rows and tables."""

import dataclasses
import functools
import resource
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nif_jax.data import splits
from nif_jax.metrics import buckets, calibration, retrieval
from nif_jax.reports.results import COSTS, METRICS
from nif_jax.reports.scores import Scores, fingerprint
from nif_jax.simulation import bounds
from nif_jax.stages import next_item, tokens
from nif_jax.stages.base import item_vectors
from nif_jax.stages.context import Context
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.stages.ranking import evaluate_ranking, warn_below_chance
from nif_jax.training.scoring import Scorer, ScoringPlan
from nif_jax.training.stage import Trained
from nif_jax.variants import SELECTED

HISTORIES = {"online": False, "frozen": True}
LENGTH_EDGES = (0, 1, 5, 10, 20, 50, 100, 200)
AGE_EDGES = (0, 1, 7, 30, 90, 180, 365)
"""Days."""


def count_parameters(params: Any) -> int:
    """Numbers in a tree."""
    return int(sum(np.size(x) for x in jax.tree.leaves(params)))


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_plan(run: Context, history: str) -> ScoringPlan:
    """Test impressions with "online" or "frozen" histories."""
    return ScoringPlan(run.dataset, splits.TEST, run.scoring_rows, HISTORIES[history])


def history_lengths(run: Context, plan: ScoringPlan) -> np.ndarray:
    """[R] number of earlier events that a plan's rows may see, online."""
    lines, eligible = run.dataset.movelines, run.dataset.eligible
    before = np.append(0, np.cumsum(eligible))
    return before[plan.rows] - before[lines.user_offsets[lines.user[plan.rows]]]


def score_rankers(run: Context, stages: Mapping[str, Trained]) -> dict[str, dict[str, Any]]:
    """variant -> history -> {"logit", "calibration"} of the test impressions, each scored once."""
    plans = {history: test_plan(run, history) for history in HISTORIES}
    found = {
        name: {history: stages[name].score(plan) for history, plan in plans.items()}
        for name in run.config.rows
        if name != SELECTED
    }
    return {name: found[stages[name].name] for name in run.config.rows}


def test_name(config: ConfigDict) -> str:
    """What results.json calls the test impressions: a random split is labelled where it is used."""
    return "random" if config.data.split == "random" else "test"


def test_scores(run: Context, scores) -> Scores:
    """What scores.npz keeps, in store order, which does not depend on the number of devices.

    Where the true click probabilities are known, they are kept as a model of their own.
    """
    plan, lines = test_plan(run, "online"), run.dataset.movelines
    order = np.argsort(plan.rows)
    rows = plan.rows[order]
    users = lines.vocabulary["user"][lines.user[rows]]
    items = lines.vocabulary["item"][lines.item[rows] - 1]
    logits = {
        name: {history: found["logit"][order] for history, found in histories.items()}
        for name, histories in scores.items()
    }
    if lines.truth is not None:
        logits[bounds.BAYES] = dict.fromkeys(HISTORIES, lines.truth[rows])
    return Scores(
        label=lines.label[rows],
        user=np.unique(users, return_inverse=True)[1],
        fingerprint=fingerprint(users, items, lines.time[rows], lines.label[rows]),
        logits=logits,
    )


def result_rows(run: Context, stages, scores) -> list[dict[str, Any]]:
    """Rows of results.json for one seed."""
    rows = []
    for name in run.config.rows:
        trained = stages[name]
        for history in HISTORIES:
            plan = test_plan(run, history)
            metrics = evaluate_ranking(run.dataset, plan, scores[name][history]["logit"])
            rows.append(
                {
                    "model": name,
                    "seed": run.seed,
                    "split": test_name(run.config),
                    "history": history,
                }
                | {key: metrics[key] for key in METRICS}
                | {
                    "train_examples_per_second": trained.examples_per_second or None,
                    "parameters": count_parameters(trained.params),
                    "peak_rss_bytes": peak_rss_bytes(),
                }
            )
    aucs = {f"{row['model']} ({row['history']})": row["auc"] for row in rows}
    warn_below_chance(run, aucs, "test")
    return rows + bayes_rows(run)


def calibration_rows(run: Context, stages, scores) -> list[dict[str, Any]]:
    """ "calibration" of results.json for one seed: what it changes on test, variant by variant."""
    found = []
    for name in run.config.rows:
        for history in HISTORIES:
            label = run.dataset.movelines.label[test_plan(run, history).rows]
            entry = {"model": name, "seed": run.seed, "history": history}
            entry["method"] = stages[name].calibration.method
            for when, logits in (("before", "raw_logit"), ("after", "logit")):
                measured = calibration.measures(label, scores[name][history][logits])
                entry |= {f"{metric}_{when}": value for metric, value in measured.items()}
            found.append(entry)
    return found


def bayes_rows(run: Context) -> list[dict[str, Any]]:
    """Rows of the true click probabilities, the bound of all variants; none where not known."""
    rows = []
    for history in HISTORIES:
        metrics = bounds.ranking_metrics(run, test_plan(run, history))
        if metrics is not None:
            rows.append(
                {"model": bounds.BAYES, "seed": run.seed, "split": test_name(run.config)}
                | {"history": history}
                | {key: metrics[key] for key in METRICS}
                | dict.fromkeys(COSTS)
            )
    return rows


def retrieval_rows(run: Context, stages: Mapping[str, Trained]) -> list[dict[str, Any]]:
    """Next-item retrieval on test: what generates, popularity, the base's own embeddings, and,
    where the law is known, the best possible ("bayes").

    Each leaves out the items of the window that it reads. "targets" is "all" events or
    "positive" ones only; beam search is evaluated on positive ones, as it is trained.
    """
    plan = dataclasses.replace(test_plan(run, "online"), sampled=False)
    ranks, past = {}, run.config.data.history_length
    if "generator" in stages:
        past = run.config.pretrain.context
        ranks["generator"] = stages["generator"].score(plan)["rank"]
    for name in dict.fromkeys(stages[name].name for name in run.config.rows):
        for kind in stages[name].stage.scorers:
            if kind != "scores":
                ranks[f"{name}, {kind}"] = stages[name].score(plan, kind)["rank"]
    if ranks:
        ranks |= _control_ranks(run, stages["base"], plan, past)
    found = [
        (model, targets, rank)
        for model, rank in ranks.items()
        for targets in (("positive",) if "constrained" in model else ("all", "positive"))
    ]
    if ranks:
        bound = bounds.next_item_ranks(run, plan, past)
        found += [(bounds.BAYES, targets, rank) for targets, rank in bound.items()]
    positive = run.dataset.movelines.label[plan.rows] == 1
    rows = []
    for model, targets, rank in found:
        chosen = rank[positive] if targets == "positive" else rank
        if len(chosen):
            rows.append(
                {"model": model, "seed": run.seed, "split": "test", "targets": targets}
                | retrieval.summarize(chosen)
            )
    return rows


def _control_ranks(run: Context, base: Trained, plan: ScoringPlan, context: int):
    """{control: [R] ranks} of popularity and of the mean of the history in the base's space."""
    lines = run.dataset.movelines
    counts = np.bincount(lines.item[run.dataset.train_events], minlength=lines.num_items + 1)
    gather = functools.partial(next_item.gather_next, context, context)
    vectors = item_vectors(run, base.params)

    def by_popularity(params, variables, constants, batch):
        del params, variables
        counts, seen = constants["counts"][1:], batch.seen - 1
        ranks = retrieval.popularity_ranks(counts, batch.item - 1, seen)
        return {"rank": ranks}

    def by_mean(params, variables, constants, batch):
        del params, variables
        return next_item.rank_by_mean(constants, batch)

    data = run.place(vectors=vectors, counts=counts.astype(np.int32))
    nothing = run.parallel.replicate(({}, {}))
    return {
        "popularity": Scorer(by_popularity, gather, data, run.parallel)(plan, *nothing)["rank"],
        "base embeddings": Scorer(by_mean, gather, data, run.parallel)(plan, *nothing)["rank"],
    }


def code_rows(
    run: Context, stages: Mapping[str, Trained], outputs: GeneratorOutputs
) -> list[dict[str, Any]]:
    """A record for each level of each form of semantic IDs."""
    lines, rows = run.dataset.movelines, []
    feature = next((f for f in ("category", "genres") if f in lines.item_features), None)
    categories = lines.item_features[feature][1:, 0] if feature else None
    for form, codes in outputs.codes.items():
        rebuilt = None
        if form in tokens.TRAINED:
            rebuilt = stages["tokenizer"].metrics["r2"]
        found = tokens.describe(form, codes, run.config.tokenizer.codes, categories, rebuilt)
        rows += [{"seed": run.seed} | record for record in found]
    return rows


def bucket_rows(run: Context, scores) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """AUC by history length, by age of the item, and for items and users new to train or not."""
    plan, dataset = test_plan(run, "online"), run.dataset
    lines, rows = dataset.movelines, plan.rows
    ages = buckets.item_ages(lines, ~dataset.sampled, rows)
    values = {
        "history_length": (history_lengths(run, plan), LENGTH_EDGES),
        "item_age_days": (ages, AGE_EDGES),
        "cold_item": ((~dataset.seen_item[lines.item[rows]]).astype(int), (0, 1)),
        "cold_user": ((~dataset.seen_user[lines.user[rows]]).astype(int), (0, 1)),
    }
    labels = lines.label[rows]
    return {
        name: {
            name: buckets.by_bucket(labels, found["online"]["logit"], value, edges)
            for name, found in scores.items()
            if name != SELECTED  # has a line of its own already
        }
        for name, (value, edges) in values.items()
    }
