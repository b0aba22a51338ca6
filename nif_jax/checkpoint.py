"""Orbax checkpoints of a stage: the last state to resume from, the best one to go on with.

    <folder>/last/<step>   state, loop record, config: rewritten at every evaluation
    <folder>/best/<step>   params and variables of the best validation metric so far

Order in which a stage starts: its own folder > config.init_from > cross-stage initialisation >
scratch. A checkpoint appears by rename, so that a killed run leaves an old one or a new one.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from nif_jax.config_keys import differences
from nif_jax.parallel import barrier


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the folder and what to do."""


def _manager(folder: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder.resolve(), options=options)


def _describe(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p): f"{x.dtype}{list(x.shape)}" for p, x in leaves}


class Checkpointer:
    """Reads and writes one stage's folder; every process calls every method.

    Attributes:
      folder: the stage's folder.
    """

    def __init__(self, folder: pathlib.Path, config: Mapping[str, Any]):
        """Opens the folder; `config` is what shaped the stage, kept beside each checkpoint."""
        self.folder = folder
        self._config = json.loads(json.dumps(dict(config)))
        self._last, self._best = _manager(folder / "last", 1), _manager(folder / "best", 1)

    def save_last(self, step: int, state: Any, record: Mapping[str, Any]) -> None:
        """Writes the whole state (host arrays) and the loop's record."""
        self._save(self._last, step, state, record)

    def save_best(self, step: int, params: Any, variables: Any, record: Mapping[str, Any]) -> None:
        """Writes what the next stage starts from."""
        self._save(self._best, step, {"params": params, "variables": variables}, record)

    def _save(self, manager: ocp.CheckpointManager, step: int, tree: Any, record) -> None:
        if step in manager.all_steps():
            return  # killed between two saves and resumed: the same step has the same bits
        meta = {"record": dict(record), "config": self._config, "schema": _describe(tree)}
        saved = manager.save(
            step,
            args=ocp.args.Composite(tree=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)),
            force=True,
        )
        manager.wait_until_finished()
        if not saved and manager.latest_step() != step:
            raise CheckpointError(f"{manager.directory}: step {step} was not written.")

    def restore_last(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """State and record of the last checkpoint, or None where there is none."""
        return self._restore(self._last, like)

    def restore_best(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """{"params", "variables"} and record of the best checkpoint, or None."""
        return self._restore(self._best, like)

    def _restore(self, manager: ocp.CheckpointManager, like: Any):
        step = manager.latest_step()
        if step is None:
            return None
        path = pathlib.Path(str(manager.directory)) / str(step)
        meta = _read(manager, step, path, {"meta": ocp.args.JsonRestore()})["meta"]
        changed = differences(_describe(like), meta["schema"])
        if changed:
            raise CheckpointError(
                f"{path} holds other arrays than this config makes (found -> wanted):\n  "
                + "\n  ".join(changed[:10])
                + "\nUse another --workdir, or the config that the checkpoint was made with."
            )
        abstract = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        tree = _read(manager, step, path, {"tree": ocp.args.StandardRestore(abstract)})["tree"]
        logging.info("restored %s", path)
        return tree, meta["record"]

    def close(self) -> None:
        """Waits for writes and frees the managers."""
        self._last.close()
        self._best.close()
        barrier(f"checkpoints of {self.folder.name}")


def _read(manager: ocp.CheckpointManager, step: int, path: pathlib.Path, items: Mapping[str, Any]):
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax, TensorStore and JSON each have errors of their own
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). It was "
            "damaged or half-written by something other than this program; delete that folder to "
            "go on from what was before it, and run again."
        ) from error


def load_best(folder: pathlib.Path, like: Any) -> Any | None:
    """{"params", "variables"} of a stage's best checkpoint, or None where there is none."""
    if not (folder / "best").is_dir():
        return None
    checkpoints = Checkpointer(folder, {})
    found = checkpoints.restore_best(like)
    checkpoints.close()
    return None if found is None else found[0]


def is_finished(folder: pathlib.Path) -> bool:
    """Whether a stage's last checkpoint says that it is done."""
    if not (folder / "last").is_dir():
        return False
    manager = _manager(folder / "last", 1)
    step = manager.latest_step()
    done = False
    if step is not None:
        meta = _read(manager, step, folder / "last" / str(step), {"meta": ocp.args.JsonRestore()})
        done = meta["meta"]["record"]["done"]
    manager.close()
    return done
