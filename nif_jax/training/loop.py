"""The only training loop."""

import functools
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from nif_jax.data.input import Epochs
from nif_jax.metrics.writer import MetricWriter, Progress
from nif_jax.training import train_state
from nif_jax.training.checkpoint import Checkpointer
from nif_jax.training.devices import preemption
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.processes import is_writer
from nif_jax.training.profile import Profiler
from nif_jax.training.stage import Settings, Stage, Trained
from nif_jax.training.step import make_train_step


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the message names step and batch rows."""

    exit_code = 3
    """Of the process: a search counts such a run as done, and starts one again that failed."""


def whole_dispatches(steps: float, unit: int) -> int:
    """Steps rounded up to a multiple of config.train.steps_per_dispatch, at least one."""
    return max(1, round(-(-steps // unit))) * unit


def _mean(measurements: list[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
    names = measurements[0]
    sums = {n: np.sum([np.sum(m[n], axis=-1) for m in measurements], axis=0) for n in names}
    return {n: float(s / max(w, 1e-9)) for n, (s, w) in sums.items()}


def _raise_if_not_finite(
    stage: Stage, epochs: Epochs, shards, first_step: int, losses: np.ndarray
) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if not len(bad):
        return
    step = first_step + int(bad[0])
    rows = {k: v.reshape(-1).tolist() for k, v in epochs.step(step).items()}
    rows = {k: v[:16] + ["..."] * (len(v) > 16) for k, v in rows.items()}
    raise NonFiniteLossError(
        f"stage {stage.name}: the loss of step {step} is {losses[bad[0]]}. Its batch (numbers in "
        f"the stores of shards {list(shards)}): {rows}. The last checkpoint is from before that "
        "step: lower the learning rate or set clip_norm, and run again."
    )


class _Stepper:
    """Takes steps up to a boundary, reading back from the device at log steps only."""

    def __init__(self, stage: Stage, parallel: Devices, writer: MetricWriter):
        kind = stage.settings.microbatch, stage.data.on_device
        self._train_step = stage.programs.once(
            ("step", *kind), lambda: parallel.map(make_train_step(stage, *kind), donate=(0,))
        )
        self._stage, self.parallel, self.writer = stage, parallel, writer
        self._shards = parallel.local_shards
        self._epochs = Epochs(stage.plan, self._shards)
        self._uncounted = 1  # the first dispatch compiles, which says nothing about speed
        self.examples, self.seconds = 0.0, 0.0

    def profile(self, profiler: Profiler, host_state) -> None:
        """Measures the step before training, which then need not compile it."""
        profiler.measure(self._stage, self._train_step, host_state, self._epochs, self.parallel)

    def run(self, state, first: int, last: int, progress: Progress):
        """(state, step) after steps first to last - 1.

        It may stop after an earlier step, if the run is to stop: at a log step, because a run that
        goes on from there then has the same log steps as one that was not stopped.
        """
        settings, data = self._stage.settings, self._stage.data
        unit = settings.unit
        stream = self._epochs.batches(
            first_step=first,
            last_step=last,
            steps_per_dispatch=unit,
            gather=data.host_gather(self._stage.gather),
        )
        pending, logged = [], first
        clock = time.perf_counter()
        for step in [*range(first + unit, last, unit), last]:
            batches = self.parallel.shard(next(stream))
            state, measurements = self._train_step(state, *data.step_arguments, batches)
            pending.append(measurements)
            if self._uncounted and len(pending) == 1:
                jax.block_until_ready(measurements)
                clock = time.perf_counter()
            if len(pending) == settings.log_dispatches or step == last:
                self._log(self.parallel.unreplicate(pending), logged, step, progress)
                pending, logged = [], step
                if step < last and preemption.requested():
                    break
        self.seconds += time.perf_counter() - clock
        return state, step

    def _log(self, pending, first: int, step: int, progress: Progress) -> None:
        losses = np.concatenate([m["loss"][0] / np.maximum(m["loss"][1], 1e-9) for m in pending])
        _raise_if_not_finite(self._stage, self._epochs, self._shards, first, losses)
        counts = [float(m["loss"][1].sum()) for m in pending]
        self.examples += sum(counts[self._uncounted :])
        self._uncounted = 0
        means = _mean(pending)
        rate = progress.update(step, means["loss"], int(sum(counts)))
        values = {f"train/{name}": value for name, value in means.items()}
        self.writer.write(step, self._stage.name, values | {"examples_per_second": rate})


def train_and_evaluate(
    stage: Stage,
    *,
    initial: tuple[Any, Any],
    seed: int,
    folder: pathlib.Path,
    made_from: Mapping[str, Mapping[str, str]],
    parallel: Devices,
    writer: MetricWriter,
    profiler: Profiler | None = None,
) -> Trained:
    """Trains a stage to its best validation metric, or goes on where an earlier call stopped.

    Args:
      stage: what to train.
      initial: params and variables of a start from scratch (cross-stage copies included).
      seed: of dropout and other chance within steps.
      folder: checkpoints go here; one with a checkpoint is resumed, a finished one is only read.
      made_from: digests of what the stage reads, see Checkpointer.
      parallel: the devices.
      writer: metrics.
      profiler: measures the step before training, if the stage is not finished.

    Raises:
      NonFiniteLossError: the loss is not finite.
      DamagedError: a checkpoint is missing, or is not what was saved.
      CheckpointError: a checkpoint was made with another config or from something else, or cannot
        be written.
      preemption.Stopped: SIGTERM came; the state is saved.
    """
    create = functools.partial(train_state.create, optimizer=stage.optimizer, seed=seed)
    like = jax.eval_shape(create, *initial)
    record: dict[str, Any] = {"best": None, "best_step": 0, "stale": 0, "done": False, "rate": 0.0}
    options = (made_from, parallel, stage.per_shard)
    with Checkpointer(folder, stage.config, *options) as checkpoints:
        found = checkpoints.resume(like)
        restored, record = found or (None, record)
        if not record["done"]:
            step = 0 if restored is None else int(restored.step)
            writer.truncate_after(step, stage.name)
            if restored is None:
                state = train_state.create_on_devices(*initial, stage.optimizer, seed, parallel)
            else:
                state = parallel.from_checkpoint(restored)
            del found, restored  # large tables are not to be held on the host as well
            stepper = _Stepper(stage, parallel, writer)
            if profiler is not None:
                stepper.profile(profiler, parallel.unreplicate(state))
            record = _train(stage, stepper, state, step, record, checkpoints)
        kept = {"params": like.params, "variables": like.variables}
        best, metrics = checkpoints.restore_best(kept, record["best_step"])
    logging.info(
        "%s: best step %d, %s %.4f", stage.name, record["best_step"], stage.metric, record["best"]
    )
    state = parallel.from_checkpoint((best["params"], best["variables"]))
    del best
    step, rate = record["best_step"], record["rate"]
    params, variables = parallel.unreplicate(state)
    return Trained(stage, params, variables, metrics, step, rate, state)


def _train(
    stage: Stage, stepper: _Stepper, state, step: int, record: dict, checkpoints: Checkpointer
) -> dict:
    """Trains to the end from the state after a step and its record, and returns the last record.

    If the run is to stop, the state is saved at the next log step or evaluation.
    """
    settings = stage.settings
    unit = settings.steps_per_dispatch
    period = whole_dispatches(settings.eval_epochs * stage.plan.steps_per_epoch, unit)
    total = whole_dispatches(settings.epochs * stage.plan.steps_per_epoch, unit)
    with (
        preemption.deferred(lambda: f"after step {step} of {stage.name}"),
        Progress(stage.name, total, step, enabled=is_writer()) as progress,
    ):
        while not (record["done"] or preemption.requested()):
            last = min((step // period + 1) * period, total)
            state, step = stepper.run(state, step, last, progress)
            if step == last:
                record = _evaluate(stage, stepper, state, step, total, record, checkpoints)
            else:
                checkpoints.save_last(step, stepper.parallel.to_checkpoint(state), record)
    return record


def _evaluate(
    stage: Stage,
    stepper: _Stepper,
    state,
    step: int,
    total: int,
    record: dict,
    checkpoints: Checkpointer,
) -> dict:
    """Measures the state after a step, saves it, and returns its record.

    The host copy of the state does not outlive the call.
    """
    metrics, chosen = stage.evaluate(state.params, state.variables)
    stepper.writer.write(step, stage.name, {f"validation/{k}": v for k, v in metrics.items()})
    value = metrics[stage.metric]
    if value is None:
        raise ValueError(
            f"stage {stage.name}: {stage.metric} is undefined on validation (a split "
            "with one class?), so no step can be chosen. Use another split or share."
        )
    record = _judge(record, value, step, total, stage.settings, stepper)
    saved = stepper.parallel.to_checkpoint(state)
    if record["best_step"] == step:
        chosen = {name: np.float32(value) for name, value in chosen.items()}
        checkpoints.save_best(step, saved.params, saved.variables | chosen, dict(metrics))
    checkpoints.save_last(step, saved, record)
    return record


def _judge(record, value: float, step: int, total: int, settings: Settings, stepper) -> dict:
    """The loop's record after an evaluation."""
    better = record["best"] is None or value > record["best"]
    stale = 0 if better else record["stale"] + 1
    return {
        "best": value if better else record["best"],
        "best_step": step if better else record["best_step"],
        "stale": stale,
        "done": step >= total or bool(settings.patience and stale >= settings.patience),
        "rate": stepper.examples / stepper.seconds if stepper.examples else record["rate"],
    }
