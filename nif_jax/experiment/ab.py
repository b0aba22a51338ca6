"""Online A/B test on simulated traffic: --mode=ab of a finished workdir.

Every variant in config.rows is an arm. All arms rank the same slates of the same users, show the
first item, and are clicked by the true probabilities under common random numbers. So there are two
lifts over the reference: of the clicks, as a live test would measure it, with its interval; and of
the true probabilities of what was shown, which is free of the noise of clicks. "oracle" shows the
item of the highest probability, the ceiling; "random" any of the slate.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.data.files import write_json
from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.experiment import pipeline
from nif_jax.metrics import lift
from nif_jax.reports import lifts, tables
from nif_jax.simulation import bounds
from nif_jax.simulation.traffic import Traffic, draw_traffic, lay_behind
from nif_jax.stages import base, finetune
from nif_jax.stages.context import Context
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.training.devices.processes import is_writer
from nif_jax.training.scoring import ScoringPlan
from nif_jax.training.stage import Trained

ORACLE, RANDOM = "oracle", "random"


@dataclasses.dataclass(frozen=True)
class TrafficPlan(ScoringPlan):
    """Every candidate of the traffic once.

    Attributes:
      candidates: for each shard, the rows to score behind its store.
    """

    candidates: Sequence[np.ndarray] = ()

    @functools.cached_property
    def shard_rows(self) -> list[np.ndarray]:
        """See ScoringPlan."""
        return list(self.candidates)


def score_arms(
    run: Context,
    stages: Mapping[str, Trained],
    outputs: GeneratorOutputs,
    traffic: Traffic,
) -> dict[str, np.ndarray]:
    """variant -> [V, C] logits of the traffic's candidates."""
    dataset, shard_rows, place = lay_behind(run.dataset, traffic)
    run = dataclasses.replace(run, dataset=dataset)
    plan = TrafficPlan(dataset, -1, run.scoring_rows, candidates=shard_rows)
    found = {}
    for variant in run.config.rows:
        name = stages[variant].name  # for `selected`, the name of the chosen variant
        stage = base.make(run) if name == "base" else finetune.make(run, name, outputs)
        logits = np.empty(traffic.slate.size, np.float32)
        logits[place] = stage.scorers["scores"](plan, *stages[variant].state)["logit"]
        found[variant] = logits.reshape(traffic.slate.shape)
    return found


def first_shown(logits: np.ndarray) -> np.ndarray:
    """[V] place in the slate of the highest logit; of the first in the slate among equals."""
    return np.argmax(logits, axis=1)


def outcomes(traffic: Traffic, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[U] clicks and [U] expected clicks of each user, if place `shown` [V] of a slate is shown."""
    probability = np.take_along_axis(traffic.probability, shown[:, None], 1)[:, 0]
    clicks = np.bincount(traffic.user, traffic.chance < probability)
    return clicks, np.bincount(traffic.user, probability)


def compare(
    arms: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    *,
    reference: str,
    impressions: int,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A record an arm: "model", "ctr", "true_ctr", and over the reference "lift", its interval
    "low" and "high", "true_lift", and "oracle_share", the part of the oracle's true lift.

    Args:
      arms: name -> for each model seed, what `outcomes` says; ORACLE among them. Seeds are averaged
        user by user, so that the interval is about the users of the test.
      reference: the arm to compare with.
      impressions: of each user.
      resamples: see lift.paired_lift.
      seed: see lift.paired_lift.
    """
    mean = {name: np.mean(seeds, axis=0) for name, seeds in arms.items()}  # [2, U]
    clicks, expected = mean[reference]
    ceiling = lift.relative(mean[ORACLE][1], expected)
    records = []
    for name, (own, own_expected) in mean.items():
        found = lift.paired_lift(own, clicks, resamples=resamples, seed=seed)
        true = lift.relative(own_expected, expected)
        records.append(
            {
                "model": name,
                "ctr": float(own.mean()) / impressions,
                "true_ctr": float(own_expected.mean()) / impressions,
                "lift": found.mean,
                "low": found.low,
                "high": found.high,
                "true_lift": true,
                "oracle_share": true / ceiling if ceiling > 0 else None,
            }
        )
    return records


def run(
    runs: Iterator[Context], workdir: pathlib.Path, describe: Callable[..., Mapping[str, Any]]
) -> None:
    """Tests the finished rows of all seeds, writes <workdir>/ab.json and prints its table.

    Args:
      runs: one a model seed, all on the same data.
      workdir: of the finished run.
      describe: (config, dataset) -> the "run" object of results.json.

    Raises:
      DataError: the data's law is not known.
      ConfigError: a setting that cannot be used.
      CheckpointError: a variant is not trained.
    """
    arms: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    traffic = None
    for one in runs:
        settings = one.config.ab
        if traffic is None:
            traffic = _draw(one)
            places = {
                RANDOM: np.zeros(len(traffic.user), np.int64),
                ORACLE: first_shown(traffic.probability),
            }
            arms = {name: [outcomes(traffic, place)] for name, place in places.items()}
            described = describe(one.config, one.dataset)
        with one.writer:
            stages, outputs = pipeline.run_seed(one)
        for arm, logits in score_arms(one, stages, outputs, traffic).items():
            arms.setdefault(arm, []).append(outcomes(traffic, first_shown(logits)))
    records = compare(
        {arm: arms[arm] for arm in (*one.config.rows, RANDOM, ORACLE)},
        reference=settings.reference or one.config.rows[0],
        impressions=settings.impressions,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    if is_writer() and traffic is not None:
        path = workdir / lifts.AB_FILE
        found = {"run": described, "ab": settings.to_dict(), "arms": records}
        write_json(path, found)
        print(tables.markdown(lifts.table(records)))
        print(f"{len(traffic.user):,} impressions of {settings.slate} candidates: {path}")


def _draw(one: Context) -> Traffic:
    """The traffic that config.ab describes."""
    settings, lines = one.config.ab, one.dataset.movelines
    world = bounds.load_world(one)
    require_choice("ab.reference", settings.reference or one.config.rows[0], one.config.rows)
    for key in ("impressions", "slate", "resamples"):
        if settings[key] < 1:
            raise ConfigError(f"config.ab.{key}={settings[key]} has to be at least 1.")
    return draw_traffic(
        lines, world, impressions=settings.impressions, slate=settings.slate, seed=settings.seed
    )
