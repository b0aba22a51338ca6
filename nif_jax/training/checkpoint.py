"""Orbax checkpoints of a stage: the last state to resume from, the best one to go on with.

    <folder>/last/<step>   state, loop record, config: rewritten at every evaluation,
                           and where SIGTERM stops the run
    <folder>/best/<step>   params and variables of the best validation metric so far
    <folder>/damaged/<n>   best and last of a stage that was found damaged and trained again

Order in which a stage starts: its own folder > config.init_from > cross-stage initialisation >
scratch. A checkpoint appears by rename, so that a killed run leaves an old one or a new one. Each
holds a SHA-256 of every array and of its description, which are compared when it is read.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import orbax.checkpoint as ocp
from absl import logging

from nif_jax.config import flatten
from nif_jax.training.checkpoint_forms import host_like, stored_form
from nif_jax.training.checkpoint_meta import (
    ANY_ORIGIN,
    CheckpointError,
    DamagedError,
    described_digest,
    manifest_of,
    pack,
    require_same_arrays,
    require_same_files,
    require_same_origin,
    require_undamaged,
    unpack,
    unwritten,
    write_manifest,
)
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.processes import barrier, is_writer

LAST, BEST, DAMAGED = "last", "best", "damaged"


def _manager(folder: pathlib.Path, keep: int = 1) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    try:
        return ocp.CheckpointManager(folder.resolve(), options=options)
    except Exception as error:  # Orbax has errors of its own
        if isinstance(error, OSError) and not folder.exists():
            raise CheckpointError(
                f"{folder} cannot be made ({_reason(error)}): make its folder writable or free "
                "some space, and run the same command again."
            ) from error
        raise DamagedError(folder, _reason(error)) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]


class Checkpointer:
    """Reads and writes one stage's folder; every process calls every method. A context manager.

    Attributes:
      folder: the stage's folder.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: Mapping[str, Any],
        made_from: Mapping[str, Mapping[str, str]],
        parallel: Devices,
        per_shard: Sequence[str] = (),
    ):
        """Opens the folder.

        Args:
          folder: of the stage.
          config: what shaped the stage. It is kept in each checkpoint; one that was made with
            another config is refused.
          made_from: {"data": {part: digest}, "stages": {stage that this one reads: digest}},
            likewise.
          parallel: the devices. A checkpoint may be of a run with others.
          per_shard: see Stage.
        """
        self.folder, self._like = folder, (parallel.checkpoint_like, per_shard)
        origin = {"config": flatten(config), "made_from": made_from}
        self._origin = json.loads(json.dumps(origin))
        self._last, self._best = _manager(folder / LAST), _manager(folder / BEST)

    def save_last(self, step: int, state: Any, record: Mapping[str, Any]) -> None:
        """Writes the whole state, see Devices.to_checkpoint, and the loop's record."""
        self._save(self._last, step, state, record)

    def save_best(self, step: int, params: Any, variables: Any, record: Mapping[str, Any]) -> None:
        """Writes what the next stage starts from."""
        self._save(self._best, step, {"params": params, "variables": variables}, record)

    def _save(self, manager: ocp.CheckpointManager, step: int, tree: Any, record) -> None:
        if step in manager.all_steps():
            return  # killed between two saves and resumed: the same step has the same bits
        meta = pack(tree, record, self._origin)
        try:
            manager.save(
                step,
                args=ocp.args.Composite(
                    tree=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )
            manager.wait_until_finished()
            reason = "Orbax skipped it" if manager.latest_step() != step else ""
        except Exception as error:  # Orbax and TensorStore each have errors of their own
            raise unwritten(manager.directory, step, _reason(error)) from error
        if reason:
            raise unwritten(manager.directory, step, reason)
        if is_writer():
            write_manifest(pathlib.Path(str(manager.directory)), step)

    def restore_best(self, like: Any, step: int) -> tuple[Any, dict[str, Any]]:
        """{"params", "variables"} and record of the best checkpoint, which has to be of a step.

        Arrays are for Devices.from_checkpoint.
        """
        found = self._best.latest_step()
        if found != step:
            raise DamagedError(self.folder / BEST, f"it has step {found} instead of {step}")
        return _restore(self._best, like, self._origin, *self._like)

    def resume(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """State, for Devices.from_checkpoint, and record to go on from; None at the start.

        Raises:
          DamagedError: last or best is missing, or is not what was saved.
          CheckpointError: they were made with another config or from other data or stages.
        """
        last = _restore(self._last, like, self._origin, *self._like)
        best = self._best.latest_step()
        if last is None:
            if best is not None:
                raise DamagedError(self.folder / LAST, f"it is empty, but {BEST} has step {best}")
            return None
        state, record = last
        if record["done"]:
            return last
        # A run that is killed between its two saves leaves a best step later than the last one.
        # Read now, before time is spent on the steps that remain.
        step = best if best is not None and best > int(state.step) else record["best_step"]
        if step:  # 0: stopped before the first evaluation
            self.restore_best({"params": like.params, "variables": like.variables}, step)
        return last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._last.close()
        self._best.close()
        if error is None:
            barrier(f"checkpoints of {self.folder.name}")


def _newest(manager: ocp.CheckpointManager) -> tuple[int | None, pathlib.Path]:
    """Latest step of a manager, None where there is none, and its folder."""
    step = manager.latest_step()
    return step, pathlib.Path(str(manager.directory)) / str(step)


def _read(manager: ocp.CheckpointManager, step: int, path: pathlib.Path, items: Mapping[str, Any]):
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax, TensorStore and JSON each have errors of their own
        raise DamagedError(path, _reason(error)) from error


def _read_meta(manager: ocp.CheckpointManager, step: int, path: pathlib.Path) -> dict[str, Any]:
    """The description of a checkpoint whose files are intact, see checkpoint_meta.unpack."""
    require_same_files(path)
    return unpack(_read(manager, step, path, {"meta": ocp.args.JsonRestore()})["meta"], path)


def _restore(
    manager: ocp.CheckpointManager,
    like: Any,
    origin: Mapping[str, Any] = ANY_ORIGIN,
    read_into: Callable[[Any], Any] = host_like,
    per_shard: Sequence[str] = (),
):
    """Arrays and record of the newest checkpoint, verified; None where there is none."""
    step, path = _newest(manager)
    if step is None:
        return None
    meta = _read_meta(manager, step, path)
    require_same_origin(path, origin, meta)
    stored, convert = stored_form(like, meta["schema"], per_shard)
    require_same_arrays(path, stored, meta)
    abstract = read_into(stored) if convert is None else host_like(stored)
    tree = _read(manager, step, path, {"tree": ocp.args.StandardRestore(abstract)})["tree"]
    require_undamaged(path, tree, meta)
    logging.info("restored %s", path)
    return (tree if convert is None else convert(tree)), meta["record"]


def load_best(folder: pathlib.Path, like: Any) -> Any | None:
    """{"params", "variables"} of a stage's best checkpoint, or None where there is none."""
    if not (folder / BEST).is_dir():
        return None
    with contextlib.closing(_manager(folder / BEST)) as manager:
        found = _restore(manager, like)
    return None if found is None else found[0]


def description(folder: pathlib.Path, kind: str = BEST) -> Mapping[str, Any] | None:
    """See checkpoint_meta.unpack: of a stage's newest checkpoint, or None where there is none."""
    if not (folder / kind).is_dir():
        return None
    with contextlib.closing(_manager(folder / kind)) as manager:
        step, path = _newest(manager)
        return None if step is None else _read_meta(manager, step, path)


def best_digest(folder: pathlib.Path) -> str | None:
    """`tree_digest` of what load_best reads, or None, without reading the arrays."""
    described = description(folder)
    return None if described is None else described_digest(described)


def is_finished(folder: pathlib.Path) -> bool:
    """Whether a stage's last checkpoint is of its end."""
    described = description(folder, LAST)
    return described is not None and described["record"]["done"]


def set_aside(folder: pathlib.Path) -> pathlib.Path:
    """Moves a stage's checkpoints to <folder>/damaged/<n>, and returns where; nothing is lost."""
    others = [int(path.name) for path in (folder / DAMAGED).glob("[0-9]*")]
    target = folder / DAMAGED / str(max(others, default=0) + 1)
    barrier(f"damage of {folder.name}")  # all have chosen the same number
    if is_writer():
        target.mkdir(parents=True)
        for name in (LAST, BEST):
            manifest_of(folder / name).unlink(missing_ok=True)
            if (folder / name).exists():
                (folder / name).rename(target / name)
    barrier(f"{folder.name} set aside")
    return target
