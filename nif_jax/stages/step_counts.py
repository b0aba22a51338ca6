"""How many rows and steps a stage's settings come to on the devices of a run."""

import dataclasses
import math
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from nif_jax.data.schema import ConfigError
from nif_jax.stages.context import Context
from nif_jax.training import optim
from nif_jax.training.loop import whole_dispatches
from nif_jax.training.stage import Settings


def per_device(run: Context, section: ConfigDict) -> int:
    """Rows of a device's batch; raises ConfigError where batch_size does not split evenly."""
    size, rest = divmod(section.batch_size, run.parallel.num_shards)
    if rest or size % 2:
        raise ConfigError(
            f"batch_size={section.batch_size} (config.train, pretrain or tokenize) has to be an "
            f"even number of rows on each of {run.parallel.num_shards} devices, such as "
            f"{4 * run.parallel.num_shards}."
        )
    return size


def require_passes(run: Context, name: str) -> None:
    """Raises ConfigError where a section's batches cannot be split over devices and passes."""
    section = run.config[name]
    _rows_of_pass(f"config.{name}.", section, per_device(run, section))


def _rows_of_pass(where: str, section: ConfigDict, rows: int) -> int:
    """Rows of a gradient pass on this kind of device, of a batch of `rows`; 0 = all of them."""
    on_cpu, elsewhere = section.microbatch, section.accelerator_microbatch
    is_cpu = jax.default_backend() == "cpu"
    key, part = ("microbatch", on_cpu) if is_cpu else ("accelerator_microbatch", elsewhere)
    if 0 < part < rows and (part % 2 or rows % part):
        raise ConfigError(
            f"{where}{key}={part} has to be even and to divide the {rows} rows of a device's "
            "batch; 0 takes them in one pass."
        )
    return part


def loop_settings(section: ConfigDict, plan: Any) -> Settings:
    """What the loop reads of a stage's section of the config.

    Raises:
      ConfigError: the passes that this kind of device is given do not divide its batch.
    """
    names = [field.name for field in dataclasses.fields(Settings) if field.name != "call_steps"]
    part = _rows_of_pass("", section, plan.batch_size)
    steps = _steps_of_call(section, plan.steps_per_epoch)
    values = {name: section[name] for name in names} | {"microbatch": part, "call_steps": steps}
    return Settings(**values)


def _steps_of_call(section: ConfigDict, steps_per_epoch: int) -> int:
    """Steps of a call on this kind of device, which divide those between evaluations."""
    unit, longest = section.steps_per_dispatch, section.accelerator_steps_per_dispatch
    if jax.default_backend() == "cpu":
        return unit
    units = whole_dispatches(section.eval_epochs * steps_per_epoch, unit) // unit
    return unit * max(n for n in range(1, max(1, longest // unit) + 1) if units % n == 0)


def make_optimizer(run: Context, section: ConfigDict, plan: Any, flatten: bool = True):
    """The optimizer of a stage, see nif_jax/training/optim.py; flat unless tables are large."""
    return optim.make_optimizer(
        learning_rate=section.learning_rate,
        total_steps=total_steps(section, plan),
        warmup_steps=section.warmup_steps,
        decay=section.decay,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
        flatten=flatten,
        rates_in_state=run.config.data.fixed_shapes,
    )


def total_steps(section: ConfigDict, plan: Any) -> int:
    """Steps of a stage that nothing stops early."""
    return int(section.epochs * plan.steps_per_epoch)


def with_min_steps(section: ConfigDict, steps_per_epoch: int) -> ConfigDict:
    """Section `train` with as many whole epochs as min_steps takes, where it has fewer.

    Evaluations are as many as before, further apart. No epochs remain none (closed forms).
    """
    epochs = math.ceil(section.min_steps / steps_per_epoch)
    if not 0 < section.epochs < epochs:
        return section
    longer = section.copy_and_resolve_references()
    longer.update(epochs=float(epochs), eval_epochs=section.eval_epochs * epochs / section.epochs)
    return longer


def log_steps(run: Context, stage: str, name: str, section: ConfigDict, plan: Any) -> None:
    """Logs why a stage takes more steps than its epochs have, where it does.

    Args:
      run: the run; one that only reads finished stages logs nothing.
      stage: name of the stage.
      name: section of the config with its training settings.
      section: these settings as the stage is trained with them, see `with_min_steps`.
      plan: of its batches.
    """
    settings = run.config[name]
    if not run.train or not settings.learning_rate:
        return  # at a learning rate of 0, which goes with epochs=0, steps change nothing
    wanted = settings.epochs * plan.steps_per_epoch
    longer = section.epochs * plan.steps_per_epoch
    unit = section.steps_per_dispatch
    taken = whole_dispatches(longer, unit)
    if taken == wanted:
        return
    reasons = []
    if longer != wanted:
        reasons.append(
            f"{name}.min_steps={settings.min_steps} makes it {_count(longer, 'step')} "
            f"({_count(section.epochs, 'epoch')}), and {name}.min_steps=0 turns that off"
        )
    if taken != longer:
        reasons.append(f"{name}.steps_per_dispatch={unit} rounds it up to {_count(taken, 'step')}")
    logging.info(
        "%s: %s.epochs=%g is %s; %s.",
        stage,
        name,
        settings.epochs,
        _count(wanted, "step"),
        "; ".join(reasons),
    )


def _count(number: float, noun: str) -> str:
    return f"{number:.10g} {noun}" + ("" if number == 1 else "s")
