"""Where a stage starts, and what identifies it."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from nif_jax.data.preparation.identity import CONTENT
from nif_jax.models.transfer import transplant
from nif_jax.stages.context import Context
from nif_jax.training import checkpoint, train_state
from nif_jax.training.stage import Stage, Trained
from nif_jax.variants import VARIANTS


def initial_state(run: Context, stage: Stage, source: Any = None) -> tuple[Any, Any]:
    """Where a stage starts: config.init_from > copies of `source`'s equal layers > scratch."""
    data = stage.data
    index = jax.tree.map(lambda x: x[0], stage.plan.indices(0, run.parallel.local_shards[0]))
    batch = data.first_batch(stage.gather, index)
    constants = run.parallel.unreplicate(data.constants)
    # A large table that devices share need not fit one of them.
    with _on_cpu() if stage.lookups and run.parallel.splits_tables else contextlib.nullcontext():
        params, variables = stage.init(train_state.key(run.seed), batch, constants)
        params = jax.tree.map(np.asarray, params)
    if source is not None:
        params, copied, different = transplant(source, params)
        logging.info(
            "%s: %d arrays from the stage before, %d of other shape left alone %s",
            stage.name,
            len(copied),
            len(different),
            different,
        )
    if run.config.init_from:
        like = {"params": params, "variables": variables}
        found = _from_init(run, stage.name, lambda folder: checkpoint.load_best(folder, like))
        if found is None:
            logging.info("%s: not in %s, starts as usual", stage.name, run.config.init_from)
        else:
            params, variables = found["params"], found["variables"]
    return params, variables


def _on_cpu() -> contextlib.AbstractContextManager:
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def made_from(run: Context, name: str, reads: Sequence[Trained]) -> dict[str, dict[str, str]]:
    """Digests of what a stage is made from, see Checkpointer."""
    data = dict(run.identity["sha256"])
    if name != "tokenizer" and not getattr(VARIANTS.get(name), "cohorts", False):
        data.pop(CONTENT, None)
    stages = {stage.name: stage.digest for stage in reads}
    if run.config.init_from:
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
