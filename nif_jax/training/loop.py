"""The only training loop."""

import dataclasses
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
from nif_jax.training.devices.pmap import Placed, Pmap, is_writer
from nif_jax.training.stage import Stage
from nif_jax.training.step import make_train_step


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the message names step and batch rows."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Section `train` of a config, one a stage.

    Attributes:
      epochs: passes over the plan at most.
      eval_epochs: epochs between evaluations (and checkpoints); may be below 1.
      patience: evaluations without a better metric before the stage stops; 0 = never.
      steps_per_dispatch: K, steps that one call of the device takes; evaluations wait for its end.
      log_dispatches: calls between log lines; nothing is read back from the device in between.
      microbatch: see step.make_train_step.
    """

    epochs: float
    eval_epochs: float
    patience: int
    steps_per_dispatch: int
    log_dispatches: int
    microbatch: int


@dataclasses.dataclass(frozen=True)
class Trained:
    """The best state of a stage.

    Attributes:
      params: host arrays; variables likewise.
      variables: see TrainState.
      metrics: validation metrics at the best step.
      step: the best step.
      examples_per_second: rows (for sequences: targets) of all devices over the time spent in train
        steps, compilation, evaluation and checkpoints left out.
    """

    params: Any
    variables: Any
    metrics: Mapping[str, float]
    step: int
    examples_per_second: float


def _rounds(steps: float, unit: int) -> int:
    """Steps rounded up to whole dispatches, so that one compiled length serves all."""
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

    def __init__(
        self, stage: Stage, data: Placed, parallel: Pmap, settings: Settings, writer: MetricWriter
    ):
        step = make_train_step(stage, settings.microbatch, data.on_device)
        self._train_step = parallel.map(step, donate=(0,))
        self._stage, self._data = stage, data
        self.parallel, self.settings, self.writer = parallel, settings, writer
        self._shards = parallel.local_shards
        self._epochs = Epochs(stage.plan, self._shards)
        self._uncounted = 1  # the first dispatch compiles, which says nothing about speed
        self.examples, self.seconds = 0.0, 0.0

    def run(self, state, first: int, last: int, progress: Progress):
        """State after steps first to last - 1."""
        settings, unit = self.settings, self.settings.steps_per_dispatch
        stream = self._epochs.batches(
            first_step=first,
            last_step=last,
            steps_per_dispatch=unit,
            gather=self._data.host_gather(self._stage.gather),
        )
        pending, logged = [], first
        clock = time.perf_counter()
        for step in range(first + unit, last + 1, unit):
            state, measurements = self._train_step(state, *self._data.step_arguments, next(stream))
            pending.append(measurements)
            if self._uncounted and len(pending) == 1:
                jax.block_until_ready(measurements)
                clock = time.perf_counter()
            if len(pending) == settings.log_dispatches or step == last:
                self._log(jax.device_get(pending), logged, step, progress)
                pending, logged = [], step
        self.seconds += time.perf_counter() - clock
        return state

    def _log(self, pending, first: int, step: int, progress: Progress) -> None:
        # Sums are the same on every device, so the first local one speaks for all.
        pending = [jax.tree.map(lambda x: x[0], m) for m in pending]
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
    data: Placed,
    initial: tuple[Any, Any],
    seed: int,
    settings: Settings,
    folder: pathlib.Path,
    made_from: Mapping[str, Mapping[str, str]],
    parallel: Pmap,
    writer: MetricWriter,
) -> Trained:
    """Trains a stage to its best validation metric, or goes on where an earlier call stopped.

    Args:
      stage: what to train.
      data: what steps read.
      initial: params and variables of a start from scratch (cross-stage copies included).
      seed: of dropout and other chance within steps.
      settings: length and pace.
      folder: checkpoints go here; one with a checkpoint is resumed, a finished one is only read.
      made_from: digests of what the stage reads, see Checkpointer.
      parallel: the devices.
      writer: metrics.

    Raises:
      NonFiniteLossError: the loss is not finite.
      DamagedError: a checkpoint is missing, or is not what was saved.
      CheckpointError: a checkpoint was made with another config or from something else, or cannot
        be written.
    """
    params, variables = initial
    fresh = jax.tree.map(np.asarray, train_state.create(params, variables, stage.optimizer, seed))
    record = {"best": None, "best_step": 0, "stale": 0, "done": False, "rate": 0.0}
    with Checkpointer(folder, stage.config, made_from) as checkpoints:
        host_state, record = checkpoints.resume(fresh) or (fresh, record)
        if not record["done"]:
            writer.truncate_after(int(host_state.step), stage.name)
            stepper = _Stepper(stage, data, parallel, settings, writer)
            record = _train(stage, stepper, host_state, record, checkpoints)
        like = {"params": fresh.params, "variables": fresh.variables}
        best, metrics = checkpoints.restore_best(like, record["best_step"])
    logging.info("%s: best step %d, %s %.4f", stage.name, record["best_step"], stage.metric,
                 record["best"])  # fmt: skip
    return Trained(best["params"], best["variables"], metrics, record["best_step"], record["rate"])


def _train(
    stage: Stage, stepper: _Stepper, host_state, record: dict, checkpoints: Checkpointer
) -> dict:
    """Trains to the end from a state and its record, and returns the last record."""
    settings, parallel = stepper.settings, stepper.parallel
    unit, step = settings.steps_per_dispatch, int(host_state.step)
    period = _rounds(settings.eval_epochs * stage.plan.steps_per_epoch, unit)
    total = _rounds(settings.epochs * stage.plan.steps_per_epoch, unit)
    state = parallel.replicate(host_state)
    with Progress(stage.name, total, step, enabled=is_writer()) as progress:
        while not record["done"]:
            last = min((step // period + 1) * period, total)
            state = stepper.run(state, step, last, progress)
            step = last
            metrics = dict(stage.evaluate(state.params, state.variables))
            stepper.writer.write(
                step, stage.name, {f"validation/{k}": v for k, v in metrics.items()}
            )
            host_state = parallel.unreplicate(state)
            value = metrics[stage.metric]
            if value is None:
                raise ValueError(
                    f"stage {stage.name}: {stage.metric} is undefined on validation (a split "
                    "with one class?), so no step can be chosen. Use another split or share."
                )
            record = _judge(record, value, step, total, settings, stepper)
            if record["best_step"] == step:
                variables = _as_chosen(host_state.variables, metrics)
                checkpoints.save_best(step, host_state.params, variables, metrics)
            checkpoints.save_last(step, host_state, record)
    return record


def _as_chosen(variables: Any, metrics: Mapping[str, Any]) -> Any:
    """Variables with the values that evaluation chose for some, such as the weight of a mix: it
    returns those among its metrics, by the variable's name."""
    return variables | {k: np.float32(metrics[k]) for k in variables.keys() & metrics.keys()}


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
