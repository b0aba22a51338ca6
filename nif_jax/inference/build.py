"""From a restored variant to a RunModel: functions, arrays, vocabularies, encoder."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nif_jax.data import splits
from nif_jax.data.dataset import Dataset
from nif_jax.data.schema import NO_LABEL
from nif_jax.data.vocabulary import OOV
from nif_jax.experiment.restore import Restored, restore
from nif_jax.inference.functions import Functions
from nif_jax.inference.model import RunModel
from nif_jax.models.baselines.interface import log_odds
from nif_jax.requests.encode import Encoder
from nif_jax.requests.log import Log, Rows
from nif_jax.requests.vocabulary import Vocabulary, action_labels
from nif_jax.serving.programs import SPARE_ITEMS
from nif_jax.stages import cohort_input, flow_input
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.stages.generator import flow_decoder
from nif_jax.variants import VARIANTS, variant_config


def load(
    workdir: str | os.PathLike[str], variant: str = "selected", seed: int | None = None
) -> RunModel:
    """See nif_jax.load."""
    return build(restore(pathlib.Path(workdir), variant, seed))


def build(restored: Restored) -> RunModel:
    """The model of a restored variant."""
    run, trained, dataset = restored.run, restored.trained, restored.run.dataset
    config = variant_config(run.for_stage(restored.name).config, restored.name)
    own = VARIANTS[restored.name]
    flow = flow_input.configured(config, own.flow)
    assert trained.stage.predict_candidates is not None and trained.calibration is not None
    functions = Functions(
        predict_candidates=trained.stage.predict_candidates,
        generator=flow_decoder(run) if own.flow else None,
        flow=flow,
        cohorts=_cohorts(restored, config),
        dtype=jnp.dtype(config.flow.cache_dtype) if flow.cache else jnp.dtype(np.float32),
    )
    kind = config.ranker.statistics
    statistics = None if kind == "none" else dataset.statistics[kind].fitted
    lines = dataset.movelines
    if statistics is not None:
        unknown, named = _unknown_features(dataset), np.zeros(1, bool)
        statistics = statistics.with_items(unknown, named, lines.num_items + 1)
    encoder = Encoder(
        log=_log(dataset, run.config.data.history, run.config.data.label_scenes),
        user_features=_user_features(dataset),
        length=config.data.history_length,
        statistics=statistics,
        ranked=kind == "labelled",
        context=flow.context,
        chunked=flow.cache,
        past=flow.uses_label_head(train=False),
    )
    events = ~dataset.sampled
    names = lines.vocabulary
    labels = action_labels(lines.action[events], dataset.event_label[events], dataset.num_actions)
    vocabulary = Vocabulary(
        user=names["user"],
        item=names["item"],
        scene=names["scene"],
        action=names["action"],
        profile=_below("user/", names),
        item_profile=_below("item/", names),
        action_label=labels,
    )
    return RunModel(
        run=run,
        variant=restored.name,
        functions=functions,
        programs=functions.compiled(encoder.context, encoder.chunked),
        arrays=_arrays(restored, functions),
        vocabulary=vocabulary,
        encoder=encoder,
        calibration=trained.calibration,
    )


def _below(prefix: str, names: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features of users or items -> their values."""
    return {key.removeprefix(prefix): v for key, v in names.items() if key.startswith(prefix)}


def _cohorts(restored: Restored, config: ConfigDict) -> CohortInput:
    if not VARIANTS[restored.name].cohorts:
        return CohortInput()
    ids = restored.outputs.ids[config.tokenizer.form]
    # The steps, over which a weight of the loss fades, have no influence here.
    return cohort_input.configured(restored.run, config, 1, ids.num_codes, ids.num_digits)[0]


def _log(dataset: Dataset, history: str, label_scenes: str) -> Log:
    """The movelines of a data set; history and label_scenes: see configs/common.py."""
    lines = dataset.movelines
    unknown = lines.order_only
    if unknown is None:
        unknown = np.zeros(lines.num_events, bool)
    names = lines.vocabulary["scene"]
    ranked = np.isin(names, label_scenes.split("+")) | (not label_scenes)
    return Log(
        Rows(
            lines.item,
            lines.scene,
            lines.action,
            lines.time,
            dataset.event_label,
            lines.label,
            ~dataset.sampled,
            dataset.eligible,
            unknown,
        ),
        lines.user_offsets,
        int(lines.time.min()),
        history,
        np.append(False, ranked),
    )


def _user_features(dataset: Dataset) -> dict[str, np.ndarray]:
    """[U + 1] of each feature; the last row is that of an unknown user."""
    lines, found = dataset.movelines, {}
    for name, values in dataset.stores.user_features.items():
        column = np.zeros(lines.num_users + 1, np.int32)
        column[-1] = OOV if name == "id" else 0
        for number, shard in enumerate(dataset.local_shards):
            users = np.unique(lines.user[dataset.shard_rows[shard]])
            column[users] = values[number, : len(users)]
        found[name] = column
    return found


def _unknown_features(dataset: Dataset) -> dict[str, np.ndarray]:
    """[1, M] of each feature: the row of an unknown item."""
    return {
        name: np.zeros((1, ids.shape[1]), np.int32)
        for name, ids in dataset.movelines.item_features.items()
    }


def _arrays(restored: Restored, functions: Functions) -> dict[str, Any]:
    """Parameters and constants of the variant, with rows of unknown items behind the last: one that
    stays, and those that new items take."""
    trained, run = restored.trained, restored.run
    constants = dict(run.parallel.unreplicate(trained.stage.data.constants))
    unknown = {"id": np.full((1, 1), OOV, np.int32)} | _unknown_features(run.dataset)
    unknown = {name: np.repeat(row, 1 + SPARE_ITEMS, axis=0) for name, row in unknown.items()}
    constants["items"] = {
        name: np.concatenate([ids, unknown[name]]) for name, ids in constants["items"].items()
    }
    if "ids" in constants:
        ids, further = constants["ids"], ((0, 1 + SPARE_ITEMS), (0, 0))
        code = np.pad(ids.code, further)
        node = np.pad(ids.node, further, constant_values=-1)
        constants["ids"] = ids._replace(code=code, node=node)
    if "generator_item_emb" in constants:
        assert functions.generator is not None
        bound = functions.generator.bind({"params": constants["generator"]})
        added = np.asarray(bound.vectors(jax.tree.map(jnp.asarray, unknown)))
        constants["generator_item_emb"] = np.concatenate([constants["generator_item_emb"], added])
    arrays = {"params": _with_unknown(restored), "variables": trained.variables}
    arrays = jax.tree.map(jnp.asarray, arrays | {"constants": constants})
    given = (arrays[name] for name in ("params", "variables", "constants"))
    prepared = jax.jit(trained.stage.scorers["scores"].prepare)(*given)
    arrays["constants"] = arrays["constants"] | prepared
    return arrays


def _with_unknown(restored: Restored) -> Mapping[str, Any]:
    """The parameters; popularity's have a row an item, and that of an unknown one is the mean."""
    params, dataset = restored.trained.params, restored.run.dataset
    if VARIANTS[restored.name].model != "popularity":
        return params
    label = dataset.movelines.label[dataset.split == splits.TRAIN]
    mean = np.full(1 + SPARE_ITEMS, log_odds(label[label != NO_LABEL]))
    return {"logit": np.append(params["logit"], mean)}
