"""--mode=daily: predicts, then trains, day by day (docs/daily.md).

    <workdir>/<day>/<way>        the run whose model predicts the day, an ordinary workdir
    <workdir>/<day>/<way>.json   its metrics and its cost; the day is finished for this way
    <workdir>/results.json, daily.md, plots/auc_by_day.png

A day whose files are there is not repeated, so the same command continues when it was killed, and
when the log has new days.
"""

import gc
import pathlib
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from nif_jax.config import LAYOUT, differences, flatten
from nif_jax.data import labels, splits
from nif_jax.data.files import read_json, write_json
from nif_jax.data.schema import NO_LABEL, ConfigError
from nif_jax.data.vocabulary import row_values
from nif_jax.experiment import claims, daily_report, evaluation, pipeline, runner
from nif_jax.experiment.days import (
    NEVER,
    RETRAINED,
    UPDATED,
    WAYS,
    Day,
    list_days,
    require_days,
    require_supported,
    way_config,
)
from nif_jax.experiment.layout import make_devices
from nif_jax.experiment.lock import hold
from nif_jax.metrics import ctr
from nif_jax.reports.results import METRICS
from nif_jax.reports.workdirs import CONFIG_FILE
from nif_jax.stages import context
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.processes import barrier, is_writer
from nif_jax.variants import FITTED

REFERENCE = "reference"
"""The way of variants that are fitted anew to all days before: closed forms and trees."""


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Predicts each day of the log after the first ones, and trains on it.

    Args:
      config: see configs/modes.py; data.split is not read, and init_from has to be empty.
      workdir: of all days.

    Raises:
      USER_ERRORS of the runner: bad config, data, checkpoint or workdir, or a diverging loss.
      OSError: the workdir cannot be written; names the file.
    """
    config = runner.prepare(config, workdir)
    require_supported(config)
    lines = labels.of_scenes(context.load_lines(config), config.data.label_scenes)
    known = lines.time[lines.label != NO_LABEL]
    days = list_days(known, config.data.time_zone, config.data.validation_share)
    first, parallel = config.daily.first_days, make_devices(config)
    programs: dict[Hashable, Any] = {}  # of all days
    require_days(days, lines.name, first)
    with hold(workdir):
        _claim(flatten(config.to_dict()), workdir)
        for index in range(first, len(days)):
            # An update first: what both ways share, such as compiled helpers, is part of its cost.
            for way in (RETRAINED, UPDATED) if index == first else (UPDATED, RETRAINED):
                if not _file(workdir, days[index], way).exists():
                    _run_way(config, workdir, days, index, way, parallel, programs)
        later = days[first:]
        if not all(_file(workdir, day, NEVER).exists() for day in later):
            _run_way(config, workdir, days, len(days) - 1, NEVER, parallel, programs)
        barrier("daily")
        if is_writer():
            records = [read_json(_file(workdir, day, way)) for day in later for way in WAYS]
            daily_report.write(config, lines, records, workdir)


def _claim(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Raises ConfigError where a workdir has days of another config."""
    path = workdir / CONFIG_FILE
    found = read_json(path) if path.exists() else config
    own = [key for key in {**found, **config} if key.split(".")[0] not in LAYOUT]
    changed = differences(*({k: c[k] for k in own if k in c} for c in (config, found)))
    if changed:
        raise ConfigError(
            f"{workdir} has days of another config (there -> here): {'; '.join(changed)}. Use "
            "another --workdir, or delete that folder to start over."
        )
    barrier("config read")
    if is_writer():
        write_json(path, config)


def _file(workdir: pathlib.Path, day: Day, way: str) -> pathlib.Path:
    return workdir / day.name / f"{way}.json"


def _source(config: ConfigDict, workdir: pathlib.Path, days: Sequence[Day], index: int, way: str):
    """The workdir that a day's run starts from; None for a run from scratch."""
    first = config.daily.first_days
    if way == RETRAINED or index == first:
        return None
    if way == NEVER or index == first + 1:
        return workdir / days[first].name / RETRAINED
    return workdir / days[index - 1].name / UPDATED


def _run_way(
    config: ConfigDict,
    workdir: pathlib.Path,
    days: Sequence[Day],
    index: int,
    way: str,
    parallel: Devices,
    programs: dict[Hashable, Any],
) -> None:
    """Trains one way's model for a day, predicts the day and keeps the metrics.

    On the first day the ways are one model. The model that is never updated predicts all days that
    are left in one pass.
    """
    first = config.daily.first_days
    if way == UPDATED and index == first:
        _keep(workdir, days[index], way, read_json(_file(workdir, days[index], RETRAINED)))
        return
    logging.info("%s, %s", days[index].name, way)
    source = _source(config, workdir, days, index, way)
    own = way_config(config, days, index, way, source)
    candidates = days[first:] if way == NEVER else days[index : index + 1]
    predicted = [day for day in candidates if not _file(workdir, day, way).exists()]
    rows: list[dict[str, Any]] = []
    clock = _CpuClock()
    dataset = context.load_dataset(own, parallel)
    clock.lap("prepare")
    folder = workdir / days[index].name / way
    for seed in range(config.seed, config.seed + config.num_seeds):
        one = runner.make_run(own, seed, folder, dataset, parallel, True, programs)
        pipeline.require_run(one)
        claims.claim_workdir(flatten(own.to_dict()), folder, one.identity)
        claims.keep_values(folder, row_values(dataset))
        with one.writer:
            stages, _ = pipeline.run_seed(one)
        clock.lap("train")
        rows += _score(one, stages, predicted, way)
        clock.lap("score")
        if way == RETRAINED:
            rows += _references(config, one, predicted)
            clock.lap("")
    shards = range(len(dataset.shard_rows))
    trained = sum(len(dataset.impressions(shard, splits.TRAIN)) for shard in shards)
    trained = trained if way != NEVER else 0  # it takes no step
    for day in predicted:
        cost = {name: seconds / len(predicted) for name, seconds in clock.seconds.items()}
        found = [row for row in rows if row["split"] == day.name]
        record = {"rows": found, "cpu_seconds": cost, "trained": trained, "init_from": one.started}
        _keep(workdir, day, way, record)
    del dataset, one, stages
    gc.collect()  # a run refers to itself, and holds the arrays of its day


def _references(config: ConfigDict, run: context.Context, days: Sequence[Day]) -> list:
    """The metrics of variants that are fitted, not trained, on all days before."""
    fitted = tuple(row for row in config.rows if row in FITTED)
    if not fitted:
        return []
    own = run.config.copy_and_resolve_references()
    own.rows = fitted
    shared = (run.dataset, run.parallel, True, run.programs)
    one = runner.make_run(own, run.seed, run.folder.parent, *shared)
    with one.writer:
        stages, _ = pipeline.run_seed(one)
    return _score(one, stages, days, REFERENCE)


def _score(run: context.Context, stages, days: Sequence[Day], way: str) -> list[dict[str, Any]]:
    """Rows of results.json: each variant on each day, with rolling histories."""
    plan, lines = evaluation.test_plan(run, "online"), run.dataset.movelines
    found = []
    for name in run.config.rows:
        logits = stages[name].score(plan)["logit"]
        for day in days:
            inside = (lines.time[plan.rows] >= day.begin) & (lines.time[plan.rows] < day.end)
            rows = plan.rows[inside]
            metrics = ctr.evaluate(lines.label[rows], logits[inside], lines.user[rows])
            found.append(
                {
                    "model": name if way == REFERENCE else f"{name}, {way}",
                    "seed": run.seed,
                    "split": day.name,
                    "history": "online",
                }
                | {key: metrics[key] for key in METRICS}
                | {
                    "train_examples_per_second": stages[name].examples_per_second or None,
                    "parameters": evaluation.count_parameters(stages[name].params),
                    "peak_rss_bytes": evaluation.peak_rss_bytes(),
                }
            )
    return found


def _keep(workdir: pathlib.Path, day: Day, way: str, record: Mapping[str, Any]) -> None:
    """Writes the file of a finished day; names of its models are those of the way."""
    if is_writer():
        rows = [row for row in record["rows"] if way == RETRAINED or "," in row["model"]]
        named = [row | {"model": _of_way(row["model"], way)} for row in rows]
        file = _file(workdir, day, way)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, dict(record) | {"day": day.name, "way": way, "rows": named})
    barrier(f"{day.name} {way}")


def _of_way(model: str, way: str) -> str:
    return f"{model.partition(',')[0]}, {way}" if "," in model else model


class _CpuClock:
    """CPU seconds of this process, all threads, by what they were spent on."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to a name; "" leaves it out."""
        now = time.process_time()
        if name:
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
