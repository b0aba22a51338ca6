"""What a blend of the ranker's and the label head's logits owes to each, and what to averaging.

    python -m benchmarks.label_head_blend --config=configs/nif.py:num_seeds=5 --workdir=runs/nif

Reads a finished workdir of two seeds or more, whose --variant has flow.label_head=blend. The table
holds the variant, its two parts, the base with the head's log odds, and the control: the base with
the base of another seed, two models with equal inputs. Each weight is chosen on validation, as the
variant's own is.
"""

import pathlib
import sys

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from nif_jax.experiment import evaluation, pipeline
from nif_jax.metrics import blend
from nif_jax.metrics.writer import MetricWriter
from nif_jax.stages import context, ranking
from nif_jax.training.devices.pmap import Pmap

config_flags.DEFINE_config_file("config", None, "The run's configuration.", lock_config=True)
flags.DEFINE_string("workdir", None, "Its finished folder.")
flags.DEFINE_string("variant", "nif_labels", "The blended variant.")
flags.mark_flags_as_required(["config", "workdir"])
FLAGS = flags.FLAGS

VALIDATION = "validation"


def plans_of(run: context.Context):
    """What is scored: validation, and test with either history."""
    tests = {history: evaluation.test_plan(run, history) for history in evaluation.HISTORIES}
    return {VALIDATION: ranking.validation_plan(run)} | tests


def models_of(run: context.Context, variant: str) -> dict[str, dict[str, np.ndarray]]:
    """Log odds by plan: a seed's "base", and the variant's parts "ranker" and "label_head"."""
    stages, _ = pipeline.run_seed(run)
    found: dict[str, dict[str, np.ndarray]] = {"base": {}, "ranker": {}, "label_head": {}}
    for name, plan in plans_of(run).items():
        scores = stages[variant].score(plan)
        if "label_head" not in scores:
            sys.exit(f"error: variant {variant!r} has no log odds of the label head to blend with.")
        found["base"][name] = stages["base"].score(plan)["logit"]
        found["ranker"][name], found["label_head"][name] = scores["ranker"], scores["label_head"]
    return found


def best_auc(run: context.Context, one, other) -> list[float]:
    """AUC on test, online and frozen, of the best mean on validation of two models' log odds."""

    def judge(plan):
        return lambda logits: ranking.evaluate_ranking(run.dataset, plan, logits)

    plans = plans_of(run)
    chosen = blend.best_mean(
        judge(plans[VALIDATION]), one[VALIDATION], other[VALIDATION], run.config.train.metric
    )
    means = {
        h: blend.mean_logit(one[h], other[h], chosen["blend_weight"]) for h in evaluation.HISTORIES
    }
    return [judge(plans[history])(mean)["auc"] for history, mean in means.items()]


def main(argv: list[str]) -> None:
    """Prints mean and standard deviation over seeds."""
    del argv
    config, variant = FLAGS.config, FLAGS.variant
    if config.num_seeds < 2:
        sys.exit("error: the control is another seed's base: config.num_seeds has to be 2 or more.")
    parallel, writer = Pmap(), MetricWriter(".", enabled=False)
    dataset, models = context.load_dataset(config, parallel), []
    for seed in range(config.seed, config.seed + config.num_seeds):
        jax.clear_caches()
        folder = pathlib.Path(FLAGS.workdir) / f"seed_{seed}"
        run = context.Context(config, seed, folder, dataset, parallel, writer, train=False)
        models.append(models_of(run, variant))
    table: dict = {}
    for own, after in zip(models, models[1:] + models[:1], strict=True):
        pairs = {
            "base": (own["base"], own["base"]),
            f"{variant}, the ranker alone": (own["ranker"], own["ranker"]),
            "the label head alone": (own["label_head"], own["label_head"]),
            variant: (own["ranker"], own["label_head"]),
            "base and the label head": (own["base"], own["label_head"]),
            "base and another seed's base": (own["base"], after["base"]),
        }
        for name, pair in pairs.items():
            table.setdefault(name, []).append(best_auc(run, *pair))
    print(f"| {len(models)} seeds | AUC online | AUC frozen |\n| :-- | --: | --: |")
    for name, values in table.items():
        cells = zip(np.mean(values, axis=0), np.std(values, axis=0, ddof=1), strict=True)
        print(f"| {name} | " + " | ".join(f"{mean:.4f} ± {sd:.4f}" for mean, sd in cells) + " |")


if __name__ == "__main__":
    app.run(main)
