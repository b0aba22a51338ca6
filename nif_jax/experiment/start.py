"""Where a stage starts, and what identifies it."""

import contextlib
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from nif_jax.config import differences, flatten, stage_settings
from nif_jax.data.preparation.identity import CONTENT
from nif_jax.data.schema import ConfigError
from nif_jax.data.vocabulary import COUNTED, read_values, row_values
from nif_jax.models.transfer import copy_by_value, resized, transplant
from nif_jax.stages.context import Context
from nif_jax.training import checkpoint, train_state
from nif_jax.training.checkpoint_meta import describe, shape_of
from nif_jax.training.stage import Stage, Trained
from nif_jax.variants import FITTED, VARIANTS


def initial_state(run: Context, stage: Stage, source: Any = None) -> tuple[Any, Any]:
    """Where a stage starts: config.init_from > copies of `source`'s equal layers > scratch."""
    params, variables = stage.programs.once(("init", run.seed), lambda: _random_state(run, stage))
    if source is not None:
        params, copied, different = transplant(source, params)
        logging.info(
            "%s: %d arrays from the stage before, %d of other shape left alone %s",
            stage.name,
            len(copied),
            len(different),
            different,
        )
    if _continues(run, stage.name):
        return _from_init(
            run, stage.name, lambda folder: _continued(run, folder, params, variables)
        )
    return params, variables


def _random_state(run: Context, stage: Stage) -> tuple[Any, Any]:
    """A start from scratch: it depends on the seed and on shapes, but not on values of the data."""
    data = stage.data
    index = jax.tree.map(lambda x: x[0], stage.plan.indices(0, run.parallel.local_shards[0]))
    batch = data.first_batch(stage.gather, index)
    constants = run.parallel.unreplicate(data.constants)
    # A large table that devices share need not fit one of them.
    with _on_cpu() if stage.lookups and run.parallel.splits_tables else contextlib.nullcontext():
        params, variables = stage.init(train_state.key(run.seed), batch, constants)
        return jax.tree.map(np.asarray, params), variables


def _on_cpu() -> contextlib.AbstractContextManager:
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def _continues(run: Context, name: str) -> bool:
    """Whether a stage starts from config.init_from: what is fitted anew does not."""
    return bool(run.config.init_from) and name not in FITTED


def _continued(run: Context, folder: pathlib.Path, params: Any, variables: Any) -> tuple[Any, Any]:
    """The best state of a stage's folder of another run, with this run's rows of tables.

    Moments of the optimizer start at 0: they belong to the last step, not to the best one, and the
    warm-up is there to estimate them.
    """
    stage, described = folder.name, checkpoint.description(folder)
    if described is None:
        logging.info("%s: not in %s, starts as usual", stage, run.config.init_from)
        return params, variables
    here, there = row_values(run.dataset), read_values(run.config.init_from)
    _require_same_columns(run.config.init_from, here, there)
    shapes = resized(params, here, there, _rows(params, described["schema"]))
    like = {"params": shapes, "variables": variables}
    changed = differences(describe(like), described["schema"])
    if changed:
        configs = flatten(run.config.to_dict()), described["config"]
        own, other = (stage_settings(stage, config) for config in configs)
        raise checkpoint.CheckpointError(
            f"config.init_from: {folder} holds other arrays than this config makes (there -> here: "
            f"{'; '.join(changed[:3])}). {_why(differences(own, other))}"
        )
    found: Any = checkpoint.load_best(folder, like)
    params, counts = copy_by_value(found["params"], params, here, there)
    run.started[stage] = {table: rows._asdict() for table, rows in counts.items()}
    for table, rows in counts.items():
        logging.info(
            "%s: %s from %s: %d rows copied, %d new, %d dropped",
            *(stage, table, run.config.init_from),
            *rows,
        )
    return params, found["variables"]


def _rows(params: Any, schema: Mapping[str, str]) -> dict[str, int]:
    """Path with "/" -> rows that a checkpoint has of a parameter, of those that it has."""
    paths = jax.tree_util.tree_leaves_with_path({"params": params})
    named = {"/".join(key.key for key in p[1:]): jax.tree_util.keystr(p) for p, _ in paths}
    return {path: shape_of(schema[name])[0] for path, name in named.items() if name in schema}


def _require_same_columns(
    workdir: str, here: Mapping[str, np.ndarray], there: Mapping[str, np.ndarray]
) -> None:
    """Raises ConfigError for features or count features that both runs do not share."""
    remedy = (
        "Name the same columns in the same order with config.source.item_columns and user_columns, "
        "or start without config.init_from."
    )
    if gone := sorted(key for key in there.keys() - here.keys() if not key.startswith(COUNTED)):
        raise ConfigError(
            f"config.init_from: {workdir} was trained with {', '.join(gone)}, which this run does "
            f"not have. {remedy}"
        )
    for key in here.keys() & there.keys():
        if key.startswith(COUNTED) and list(here[key]) != list(there[key]):
            pairs = itertools.zip_longest(there[key], here[key], fillvalue="none")
            other, own = next((a, b) for a, b in pairs if a != b)
            raise ConfigError(
                f"config.init_from: {workdir} was trained with other count features ({other!r} "
                f"there, {own!r} here). {remedy}"
            )


_ELSEWHERE = ("data.", "eval.", "source.", "init_from")
"""Keys in which a run may differ from the one that it continues."""


def _why(changed: Sequence[str]) -> str:
    """The likely reason for other arrays, and what to do."""
    shaping = [line for line in changed if not line.startswith(_ELSEWHERE)]
    if shaping:
        return f"Set as that run did: {'; '.join(shaping)}; or start without config.init_from."
    return "Use the version of nif_jax that made it, or start without config.init_from."


def made_from(run: Context, name: str, reads: Sequence[Trained]) -> dict[str, dict[str, str]]:
    """Digests of what a stage is made from, see Checkpointer."""
    data = dict(run.identity["sha256"])
    if name != "tokenizer" and not getattr(VARIANTS.get(name), "cohorts", False):
        data.pop(CONTENT, None)
    stages = {stage.name: stage.digest for stage in reads}
    if _continues(run, name):
        other = _from_init(run, name, checkpoint.best_digest)
        stages |= {} if other is None else {"config.init_from": other}
    return {"data": data, "stages": stages}


def _from_init(run: Context, name: str, read: Callable[[pathlib.Path], Any]) -> Any:
    """What `read` makes of the folder that config.init_from has for a stage."""
    try:
        return read(pathlib.Path(run.config.init_from) / f"seed_{run.seed}" / name)
    except checkpoint.DamagedError as error:
        raise checkpoint.CheckpointError(
            f"config.init_from: {error.what} Run the command of that workdir again, which trains "
            "the stage anew, or start without config.init_from."
        ) from error
