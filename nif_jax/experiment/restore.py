"""A finished run from its workdir: config, data, and the stages that one variant needs."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from nif_jax.data.files import read_json
from nif_jax.data.preparation.identity import identify
from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.experiment import claims, pipeline
from nif_jax.experiment.settings import OF_COHORTS, SETTINGS
from nif_jax.metrics.writer import MetricWriter
from nif_jax.reports.results import RESULTS_FILE, read_results
from nif_jax.reports.workdirs import CONFIG_FILE, WorkdirError
from nif_jax.stages import context
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.training.devices.pmap import Pmap
from nif_jax.training.stage import Trained
from nif_jax.variants import SELECTED


class Restored(NamedTuple):
    """A variant of a finished run.

    Attributes:
      run: the run, which trains nothing.
      name: of the variant; for "selected", of the one that was chosen.
      trained: its stage.
      stages: name -> all stages that were read; outputs: what generators gave.
    """

    run: context.Context
    name: str
    trained: Trained
    stages: Mapping[str, Trained]
    outputs: GeneratorOutputs


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config of a finished workdir.

    Raises:
      WorkdirError: it is no workdir, the run has not finished, or another version made it.
    """
    if not (workdir / CONFIG_FILE).exists():
        raise WorkdirError(f"{workdir} is no workdir of a run: it has no {CONFIG_FILE}.")
    if not (workdir / RESULTS_FILE).exists():
        raise WorkdirError(
            f"{workdir} has not finished: it has no {RESULTS_FILE}. Run its command again."
        )
    flat = read_json(workdir / CONFIG_FILE)
    _require_keys(workdir / CONFIG_FILE, flat)
    return from_flat(flat)


def _require_keys(path: pathlib.Path, flat: Mapping[str, Any]) -> None:
    """Raises WorkdirError if a config lacks keys that this version has in its sections."""
    sections = {key.rpartition(".")[0] for key in flat}
    known = {key for key in SETTINGS if key.rpartition(".")[0] in sections}
    if "genci" not in sections:
        known -= OF_COHORTS
    missing = sorted(known - flat.keys())
    if missing:
        raise WorkdirError(
            f"{path} is from another version of nif_jax: it lacks {', '.join(missing)}. Use that "
            "version, or train again into another --workdir."
        )


def from_flat(flat: Mapping[str, Any]) -> ConfigDict:
    """The config of a flat mapping, the inverse of config.flatten."""
    config = ConfigDict()
    for key, value in flat.items():
        *sections, name = key.split(".")
        part = config
        for section in sections:
            if section not in part:
                part[section] = ConfigDict()
            part = part[section]
        part[name] = tuple(value) if isinstance(value, list) else value
    return config.lock()


def chosen_variant(workdir: pathlib.Path, config: ConfigDict, variant: str, seed: int) -> str:
    """The variant itself, or the one that "selected" is for a seed; raises ConfigError."""
    if variant not in config.rows:
        require_choice_of(workdir, "variant", variant, config.rows)
    if not config.seed <= seed < config.seed + config.num_seeds:
        last = config.seed + config.num_seeds - 1
        raise ConfigError(f"seed={seed}: {workdir} has seeds {config.seed} to {last}.")
    if variant != SELECTED:
        return variant
    selection = read_results(workdir)["selection"]
    return next(record["selected"] for record in selection if record["seed"] == seed)


def require_choice_of(workdir: pathlib.Path, key: str, value: str, choices) -> None:
    """Raises ConfigError, naming the choices, unless `value` is one of them."""
    try:
        require_choice(key, value, choices)
    except ConfigError as error:
        message = str(error).removeprefix("config.")
        raise ConfigError(f"{workdir}: {message}") from error


def restore(workdir: pathlib.Path, variant: str, seed: int | None = None) -> Restored:
    """A variant of a finished run.

    Args:
      workdir: of the run.
      variant: one of the run's; "selected" is the one that validation chose.
      seed: of the run; None is its first.

    Raises:
      WorkdirError: the workdir is none, or not finished.
      ConfigError: an unknown variant or seed, or data that is not the run's.
      CheckpointError: a stage is missing or damaged.
    """
    config = read_config(workdir)
    seed = config.seed if seed is None else seed
    name = chosen_variant(workdir, config, variant, seed)
    with config.unlocked():
        config.rows = tuple(dict.fromkeys(("base", name)))
    parallel = Pmap()
    dataset = context.load_dataset(config, parallel)
    run = context.Context(
        config=config,
        seed=seed,
        folder=workdir / f"seed_{seed}",
        dataset=dataset,
        parallel=parallel,
        writer=MetricWriter(workdir / f"seed_{seed}", enabled=False),
        train=False,
    )
    data = identify(read_json(workdir / CONFIG_FILE), dataset.movelines)
    claims.require_same_data(workdir, data, train=False)
    stages, outputs = pipeline.run_seed(run)
    return Restored(run, name, stages[name], stages, outputs)
