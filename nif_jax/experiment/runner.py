"""One run from config to results.json: seeds, modes, and the workdir's contract."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from nif_jax.config import flatten
from nif_jax.data import storage
from nif_jax.data.preparation.identity import identify
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.data.vocabulary import row_values
from nif_jax.experiment import ab, claims, evaluation, pictures, pipeline, predictions, selection
from nif_jax.experiment.layout import make_devices
from nif_jax.experiment.lock import hold
from nif_jax.experiment.outputs import describe_run, merge_metrics, print_results
from nif_jax.experiment.settings import require_valid_settings
from nif_jax.metrics.writer import MetricWriter
from nif_jax.reports import page, results, significance
from nif_jax.reports.scores import SCORES_FILE, Scores, write_scores
from nif_jax.reports.workdirs import WorkdirError, is_finished, list_files
from nif_jax.stages import context
from nif_jax.training.checkpoint import CheckpointError
from nif_jax.training.devices.processes import barrier, is_writer, set_compiler_flags
from nif_jax.training.loop import NonFiniteLossError
from nif_jax.training.profile import Profiler
from nif_jax.variants import SELECTED, missing_packages

USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLossError, WorkdirError)
"""Errors whose message is all that a user needs."""


def _make_runs(
    config, workdir, dataset, parallel, train: bool, profiler
) -> Iterator[context.Context]:
    """A run a seed. JAX's caches hold what mapped functions close over, a seed's flows included:
    they are emptied before the next, whose functions are others. The first seed is profiled."""
    for seed in range(config.seed, config.seed + config.num_seeds):
        if seed > config.seed:
            jax.clear_caches()
        run = make_run(config, seed, workdir, dataset, parallel, train)
        yield dataclasses.replace(run, profiler=profiler if seed == config.seed else None)


def make_run(
    config, seed: int, workdir, dataset, parallel, train: bool, programs=None
) -> context.Context:
    """A run of one seed; programs are those of runs on other data, see Context.programs."""
    folder = workdir / f"seed_{seed}"
    return context.Context(
        config=config,
        seed=seed,
        folder=folder,
        dataset=dataset,
        parallel=parallel,
        writer=MetricWriter(folder, enabled=is_writer() and train),
        train=train,
        programs={} if programs is None else programs,
    )


def prepare(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
    """The config without rows whose package is missing; checks it, and sets up the compiler.

    Raises:
      ConfigError: a bad config or workdir.
    """
    require_valid_settings(config)
    if ":/" in str(workdir):
        raise ConfigError(
            f"--workdir={workdir} is no folder of this machine; mount the bucket, as "
            "launch/tpu_pod.sh does with Cloud Storage FUSE, and give the folder."
        )
    config = _installed(config)
    set_compiler_flags(config.xla_flags)
    storage.enable_compilation_cache(storage.cache_dir(config.data.cache_dir) / "programs")
    return config


def run(config: ConfigDict, workdir: pathlib.Path, mode: str, profile: bool = False) -> None:
    """Trains, evaluates, predicts or tests online in a workdir.

    Args:
      config: see configs/common.py.
      workdir: checkpoints, metrics and results; a finished one prints its results.
      mode: "train", "evaluate", "predict" or "ab", see nif_jax.main.
      profile: whether to measure the train step of each stage that is trained, see Profiler.

    Raises:
      USER_ERRORS: bad config, data, checkpoint or workdir, or a diverging loss.
      OSError: the workdir cannot be written; names the file.
    """
    config = prepare(config, workdir)
    flat, train = flatten(config.to_dict()), mode == "train"
    claimed = claims.require_own(flat, workdir, train=train)
    parallel = make_devices(config)
    dataset = context.load_dataset(config, parallel)
    data = identify(flat, dataset.movelines)
    claimed &= claims.require_same_data(workdir, data, train=train)
    # Without its claims a workdir is finished only if each of its stages proves to be this run's.
    finished = train and claimed and is_finished(workdir, flat)
    barrier("workdir checked")  # all have read it before one writes
    if finished:
        logging.info("%s is finished; nothing to train.", workdir)
        claims.keep_values(workdir, row_values(dataset))
        if is_writer():
            page.write_report(workdir)
            print_results(workdir)
        return
    locked = is_writer() and (train or workdir.is_dir())  # only training makes the folder
    with hold(workdir) if locked else contextlib.nullcontext():
        profiler = Profiler(workdir) if profile else None
        runs = _make_runs(config, workdir, dataset, parallel, train, profiler)
        _run_mode(config, workdir, mode, runs, data)
        if profiler is not None and is_writer():
            print(profiler.table())
        barrier(mode)


def _installed(config: ConfigDict) -> ConfigDict:
    """The config without rows whose optional package is missing, each with a warning.

    Raises:
      ConfigError: no row is left.
    """
    missing = missing_packages(config)
    if not missing:
        return config
    install = "pip install " + " ".join(sorted(set(missing.values())))
    rows = tuple(row for row in config.rows if row not in missing)
    if not rows:
        raise ConfigError(
            f"config.rows={tuple(config.rows)!r} needs a package that is not installed: {install}"
        )
    logging.warning("Left out: %s, whose package is not installed (%s)", list(missing), install)
    config = config.copy_and_resolve_references()
    config.rows = rows
    return config


def _run_mode(config: ConfigDict, workdir, mode: str, runs, data: Mapping[str, Any]) -> None:
    """`run` in a workdir that is this run's alone."""
    if mode == "ab":
        ab.run(runs, workdir, describe_run)
        if is_writer() and (workdir / results.RESULTS_FILE).exists():
            page.write_report(workdir)  # again, now with the test
    elif mode == "predict":
        predictions.write(runs, workdir)
    else:
        _write_results(config, workdir, _findings(runs, workdir, data))


@dataclasses.dataclass
class _Findings:
    """What the seeds of a run gave, as results.json has it, and the scores of each seed."""

    rows: list = dataclasses.field(default_factory=list)
    calibration: list = dataclasses.field(default_factory=list)
    selection: list = dataclasses.field(default_factory=list)
    retrieval: list = dataclasses.field(default_factory=list)
    semantic_ids: list = dataclasses.field(default_factory=list)
    buckets: dict = dataclasses.field(default_factory=dict)
    described: dict = dataclasses.field(default_factory=dict)
    scores: dict[int, Scores] = dataclasses.field(default_factory=dict)


def _findings(runs: Iterator[context.Context], workdir, data: Mapping[str, Any]) -> _Findings:
    """Trains what is to be trained and measures all of it on test, seed by seed.

    Files of a seed, and the pictures of the first, are written as soon as they are known.
    """
    found = _Findings()
    for one in runs:
        config, first = one.config, one.seed == one.config.seed
        if one.train:  # a mistake in the config leaves the workdir free
            pipeline.require_run(one)
            claims.claim_workdir(flatten(config.to_dict()), workdir, data)
            claims.keep_values(workdir, row_values(one.dataset))
        stages = outputs = None  # the seed before's, which hold its arrays
        with one.writer:
            stages, outputs = pipeline.run_seed(one)
        scores = evaluation.score_rankers(one, stages)
        kept = found.scores[one.seed] = evaluation.test_scores(one, scores)
        if is_writer():
            write_scores(one.folder / SCORES_FILE, kept)
        found.rows += evaluation.result_rows(one, stages, scores)
        found.calibration += evaluation.calibration_rows(one, stages, scores)
        if SELECTED in config.rows:
            found.selection.append(selection.record(config, one.seed, stages))
        found.retrieval += evaluation.retrieval_rows(one, stages)
        found.semantic_ids += evaluation.code_rows(one, stages, outputs)
        if first:
            found.described = describe_run(config, one.dataset, one.started)
            found.buckets = evaluation.bucket_rows(one, scores)
            if is_writer():
                pictures.draw(one, scores, found.buckets, outputs, workdir)
    return found


def _write_results(config: ConfigDict, workdir, found: _Findings) -> None:
    """metrics.jsonl, results.json and report.html of a workdir, and the tables on the screen."""
    if not is_writer():
        return
    merge_metrics(config, workdir)
    described = found.described
    described["dataset"]["test_fingerprint"] = found.scores[config.seed].fingerprint
    results.write_results(
        workdir / results.RESULTS_FILE,
        described,
        found.rows,
        differences=significance.differences(
            found.scores,
            evaluation.test_name(config),
            unit=config.eval.resample_unit,
            resamples=config.eval.resamples,
        ),
        calibration=found.calibration,
        selection=found.selection,
        retrieval=found.retrieval,
        semantic_ids=found.semantic_ids,
        buckets=found.buckets,
        files=list_files(workdir),
    )
    page.write_report(workdir)
    print_results(workdir)
