"""The rankers that a run compares, from its config and nif_jax/variants.py, not yet trained."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nif_jax.data import splits
from nif_jax.data.sampling import ImpressionPlan
from nif_jax.data.schema import NO_LABEL, ConfigError
from nif_jax.models.cohorts import CohortNetwork, DeepFm
from nif_jax.models.intent import Intent
from nif_jax.models.quantizer import require_codes
from nif_jax.models.semantic_ids import SemanticIds
from nif_jax.stages import finetune, tokens
from nif_jax.stages.build import Built, baseline, flow_decoder, ranker, ranking_stage
from nif_jax.stages.context import Run
from nif_jax.stages.flow_source import FlowSource, gather_rows
from nif_jax.stages.genci import CohortSource, rank_generated
from nif_jax.stages.step_counts import per_device, require_passes, stretched, total_steps
from nif_jax.training.devices.pmap import AXIS
from nif_jax.training.scoring import Scorer
from nif_jax.variants import ROWS, row_config


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What earlier stages give to fine-tuning; None where no row asks for it.

    Attributes:
      params: the flow generator's parameters.
      vectors: [N + 1, D] its unit item vectors.
      flow: [D_local, M, T, D], or None where config.flow.cache is off.
      past: [D_local, M, 2, H, d] what the response head asks, or None like flow.
      response: [D_local, E] log odds of the answer to each train impression by a generator that has
        not seen its user, or None where config.flow.cross_fit is off.
      codes: form of tokenizer -> [N, K] nearest codes, and with collisions resolved; collision
        digit left out.
      ids: form of tokenizer -> semantic IDs.
    """

    params: Any = None
    vectors: np.ndarray | None = None
    flow: np.ndarray | None = None
    past: np.ndarray | None = None
    response: np.ndarray | None = None
    codes: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
    ids: Mapping[str, SemanticIds] = dataclasses.field(default_factory=dict)


def _cohort_source(
    run: Run, config: ConfigDict, steps: int, num_codes: int, num_digits: int
) -> tuple[CohortSource, CohortNetwork, DeepFm | None]:
    """The generative half of a ranker: intent model, cohort network, side head."""
    data, genci = run.dataset, config.genci
    intent = Intent(
        num_codes=num_codes,
        num_digits=num_digits,
        num_scenes=data.num_scenes,
        num_actions=data.num_actions,
        **config.intent,
    )
    settings = dict(config.cohorts)
    levels = settings.pop("levels") or config.tokenizer.levels
    network = CohortNetwork(dim=config.ranker.dim, levels=levels, **settings)
    side = DeepFm(genci.side, genci.side_dropout) if genci.delta > 0 else None
    names = ("beams", "gamma", "delta", "targets", "detach", "refresh")
    slots = (run.parallel.num_shards, data.stores.history_row.shape[1])
    settings = {name: config.genci[name] for name in names}
    fade = round(genci.delta_fade * steps)
    source = CohortSource(intent, slots=slots, fade=fade, **settings)
    return source, network, side


def _flow_source(config: ConfigDict, use: bool) -> FlowSource:
    if not use:
        return FlowSource()
    return FlowSource(
        use=True,
        returned=config.flow.returned == "add",
        horizon=config.flow.horizon,
        context=config.pretrain.context,
        cache=config.flow.cache,
        response=config.flow.response,
        tune=config.flow.tune,
    )


def _pairwise(config: ConfigDict, use: bool) -> tuple[finetune.PairwiseLoss, dict[str, int]]:
    """TSP and how far apart the members of its pairs are."""
    if not use:
        return finetune.PairwiseLoss(0.0, 0.0, "calibration", "own"), {}
    settings = dict(config.tsp)
    distances = {k: settings.pop(k) for k in ("min_events", "min_seconds", "max_events")}
    return finetune.PairwiseLoss(**settings), distances


def require_settings(run: Run) -> None:
    """Raises ConfigError now for what could not be built when the stages before it have trained."""
    if run.config.init_from:
        seed = pathlib.Path(run.config.init_from) / f"seed_{run.seed}"
        if not seed.is_dir():
            raise ConfigError(
                f"config.init_from: there is no {seed}; give the workdir of a run with that seed."
            )
    _require_classes(run)
    require_passes(run, "train")
    for name in run.config.rows:
        row, config = ROWS[name], row_config(run.config, name)
        if row.flow:
            require_passes(run, "pretrain")
            _require_answers(dataclasses.replace(run, config=config))
        if row.cohorts:
            items, form = run.dataset.movelines.num_items, config.tokenizer.form
            if form in tokens.TRAINED:
                require_passes(run, "tokenize")
            if form != "random":
                require_codes(config.tokenizer.codes, items)
            _ = run.seen_by("tokenizer").content  # raises where items have none
            tokens.require_beams(config.genci.beams, items)


def _require_classes(run: Run) -> None:
    """Raises ConfigError where validation has no AUC to select by."""
    data, metric = run.dataset, run.config.train.metric
    label = data.movelines.label[data.split == splits.VALIDATION]
    found = np.unique(label[label != NO_LABEL]).tolist()
    if metric in ("auc", "gauc") and len(found) < 2:
        raise ConfigError(
            f"{data.movelines.name}: impressions of the validation period have the labels {found} "
            f"only, so config.train.metric={metric} cannot choose a step. Sample negatives of a "
            "log of positives (--config.data.negatives=1), or use another split or share."
        )


def _require_answers(run: Run) -> None:
    """Raises ConfigError where the response head would learn one answer, which is none."""
    data = run.dataset
    learned = (data.split == splits.TRAIN) & (data.eligible | data.sampled)
    known = np.unique(data.answer[learned & (data.answer != NO_LABEL)])
    if run.config.flow_loss.response and len(known) < 2:
        raise ConfigError(
            f"{data.movelines.name}: events that histories hold have the labels {known.tolist()} "
            "only (data.history=positive has no others) and no negatives are sampled, so there are "
            "no answers for the generator's response head to learn. Turn it off: "
            "--config.flow_loss.response=0 --config.flow.response=none."
        )


def build_row(run: Run, name: str, frozen: Frozen) -> Built:
    """F_theta with flow, TSP, cohorts or several of them, or a baseline: what ROWS says."""
    run = run.seen_by(name)
    row, config = ROWS[name], row_config(run.config, name)
    run = dataclasses.replace(run, config=config)
    flow, (tsp, distances) = _flow_source(config, row.flow), _pairwise(config, row.tsp)
    plan = ImpressionPlan(
        run.dataset, per_device(run, config.train), run.seed, row.tsp, **distances
    )
    cohorts, network, side = CohortSource(), None, None
    decoder, arrays, extra = None, {}, {}
    if row.flow:
        decoder = flow_decoder(run)
        extra |= {"returned": frozen.vectors, "generator": frozen.params}
        if frozen.flow is not None:
            arrays["flow"] = frozen.flow
            if flow.response != "none":
                arrays["past"] = frozen.past
        if frozen.response is not None and flow.response == "input":
            arrays["response"] = frozen.response
    if row.cohorts:
        extra["ids"] = frozen.ids[config.tokenizer.form]
        steps = total_steps(stretched(config.train, plan.steps_per_epoch), plan)
        ids = extra["ids"]
        cohorts, network, side = _cohort_source(run, config, steps, ids.num_codes, ids.num_digits)
    model = ranker(run, network, side) if row.model == "ranker" else baseline(run, row.model)
    data = run.place(arrays, **extra)
    parts = (model, decoder, flow, cohorts)
    gather = gather_rows(config.data.history_length, flow)
    make = functools.partial(
        finetune.make_stage, name, model, decoder, flow=flow, cohorts=cohorts, tsp=tsp,
        axis_name=AXIS,
    )  # fmt: skip
    predict = functools.partial(finetune.predict, *parts)
    built = dataclasses.replace(
        ranking_stage(run, make, plan, data, predict, gather),
        predict=predict,
        candidates=functools.partial(finetune.predict_candidates, *parts),
    )
    if not row.cohorts:
        return built
    width = min(config.eval.beams, run.dataset.movelines.num_items)
    generators = {
        kind: Scorer(
            functools.partial(rank_generated, cohorts.intent, width, constrained),
            gather,
            data,
            run.parallel,
        )
        for kind, constrained in (("constrained", True), ("unconstrained", False))
    }
    return dataclasses.replace(built, generators=generators)
