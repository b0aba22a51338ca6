"""--mode=daily, and config.init_from with a log whose values are numbered otherwise."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from configs import base
from nif_jax.data.schema import ConfigError
from nif_jax.data.vocabulary import VOCABULARY_FILE, row_values
from nif_jax.experiment import daily, outputs, pipeline, runner, start
from nif_jax.experiment.runner import USER_ERRORS
from nif_jax.reports import results
from nif_jax.stages import base as base_stage
from nif_jax.stages import checks, context, finetune
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.training import checkpoint
from nif_jax.training.checkpoint import CheckpointError
from nif_jax.training.devices.pmap import Pmap
from tests.end_to_end.runs import TINY, WRITERS, best_parameters

DAYS = ("2024-03-01", "2024-03-02", "2024-03-03")
SMALL = TINY.partition("ranker.dim")[2]
MODEL = f"files,smoke,ranker.dim{SMALL},train.epochs=1.0,rows=constant+base"


def write_log(folder, prefix="", without=(), columns=("category", "price")):
    """Three days of a shop; with a prefix, some users and items are others, and all are numbered
    otherwise."""
    rng = np.random.default_rng(0)
    count = 3 * 24 * 20
    user, item = rng.integers(0, 24, count), rng.integers(0, 16, count)
    names = {
        "user_id": [f"{prefix if u % 4 == 0 else ''}u{u}" for u in user],
        "item_id": [f"{prefix if i % 4 == 0 else ''}i{i}" for i in item],
    }
    begin = pd.Timestamp(DAYS[0]).value // 10**9
    events = pd.DataFrame(names).assign(
        timestamp=begin + np.arange(count) * 3 * 86_400 // count,
        label=(rng.random(count) < 0.3 + 0.4 * (item % 2)).astype(int),
    )
    events = events[~events["item_id"].isin(without)]
    items = events[["item_id"]].drop_duplicates().sort_values("item_id", ignore_index=True)
    number = items["item_id"].str.extract(r"(\d+)$")[0].astype(int)
    features = {
        "category": [f"{prefix if n % 5 == 0 else ''}c{n % 5}" for n in number],
        "price": [f"p{n % 3}" for n in number],
    }
    folder.mkdir(exist_ok=True)
    events.to_parquet(folder / "log.parquet", index=False)
    items = items.assign(**{name: features[name] for name in columns})
    items.to_parquet(folder / "log_items.parquet", index=False)
    config = base.get_config(MODEL)
    config.source.path = str(folder / "log.parquet")
    config.source.item_columns = ",".join(columns)
    return config


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


class _KilledError(BaseException):
    """Stands for the signal that ends a process."""


@pytest.fixture(scope="module")
def finished(log):
    """A finished workdir whose process was killed in the last update, after its best checkpoint."""
    workdir, config = log / "whole", write_log(log / "shop")
    save = checkpoint.Checkpointer.save_last

    def die(self, *args):
        if self.folder.parts[-3] == daily.UPDATED:
            raise _KilledError
        save(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpointer, "save_last", die)
        with pytest.raises(_KilledError):
            daily.run(config, workdir)
    assert not (workdir / "results.json").exists()
    daily.run(config, workdir)
    return workdir


def later_run(finished, folder, **log_options):
    """A run on another log that starts from the first day's model."""
    config = write_log(folder, **log_options)
    config.init_from = str(finished / DAYS[1] / "retrained")
    config.data.split = f"dates:{DAYS[0]}+{DAYS[1]}+{DAYS[2]}+2024-03-04"
    parallel = Pmap(jax.devices()[:1])
    dataset = context.load_dataset(config, parallel)
    run = runner.make_run(config, 0, folder / "run", dataset, parallel, train=True)
    WRITERS.append(run.writer)
    return run


class TestDaily:
    def test_results_have_each_day_and_way(self, finished):
        found = results.read_results(finished)
        models = {(row["split"], row["model"]) for row in found["rows"]}
        ways = [f"base, {way}" for way in ("never", "updated", "retrained")]
        assert models == {(day, model) for day in DAYS[1:] for model in (*ways, "constant")}
        first, second = (
            {r["model"]: r for r in found["rows"] if r["split"] == d} for d in DAYS[1:]
        )
        assert len({first[way]["auc"] for way in ways}) == 1  # one model
        assert len({second[way]["logloss"] for way in ways}) == 3
        of = {(d["day"], d["way"]): d for d in found["days"]}
        trained = [of[DAYS[2], way]["trained"] for way in ("never", "updated", "retrained")]
        # A tenth of the last day before is held out.
        assert trained == [0, 0.9 * 480, 1.9 * 480]
        assert all(d["cpu_seconds"]["score"] > 0 for d in found["days"])
        assert of[DAYS[2], "updated"]["init_from"]["base"]["items/id"] == {
            "copied": 16,
            "new": 0,
            "dropped": 0,
        }
        text = (finished / "daily.md").read_text()
        assert all(word in text for word in (*DAYS[1:], *ways, "constant", "2 days"))
        assert (finished / "plots" / "auc_by_day.png").stat().st_size > 1000

    def test_the_model_that_is_never_updated_is_the_first(self, finished):
        first, never = (
            best_parameters(finished / day / way / "seed_0" / "base")["params"]
            for day, way in ((DAYS[1], "retrained"), (DAYS[2], "never"))
        )
        jax.tree.map(np.testing.assert_array_equal, first, never)

    def test_a_killed_run_ends_with_the_same_numbers(self, finished, log):
        def files():
            return {path: path.read_text() for path in sorted(finished.glob("*/*.json"))}

        def numbers(path):
            rows = json.loads(path.read_text())["rows"]
            return [{key: row[key] for key in results.METRICS} for row in rows]

        lost = [finished / DAYS[1] / "never.json", finished / DAYS[2] / "updated.json"]
        there, before = files(), list(map(numbers, lost))
        shutil.rmtree(finished / DAYS[2] / "updated")
        for path in lost:
            path.unlink()
        daily.run(write_log(log / "shop"), finished)
        assert list(map(numbers, lost)) == before
        # No other day was repeated: CPU seconds would differ.
        assert [path for path, text in files().items() if there[path] != text] == lost

    def test_a_finished_workdir_trains_nothing_and_refuses_another_config(
        self, finished, log, monkeypatch
    ):
        def never(*_, **__):
            raise AssertionError("trained")

        monkeypatch.setattr(pipeline, "train_and_evaluate", never)
        config = write_log(log / "shop")
        daily.run(config, finished)
        config.daily.replay_days = 2
        with pytest.raises(ConfigError, match=r"daily\.replay_days: 1 -> 2"):
            daily.run(config, finished)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"daily.first_days": 3}, "impressions of 3 days leave none to predict"),
            ({"init_from": "old"}, "config.init_from='old': --mode=daily starts"),
            ({"rows": ("constant",)}, "no variant that is trained: add one, such as base"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(self, log, tmp_path, changes, message):
        config = write_log(log / "shop")
        config.update_from_flattened_dict(changes)
        with pytest.raises(USER_ERRORS, match=message) as found:
            daily.run(config, tmp_path / "run")
        assert "\n" not in str(found.value)
        assert not (tmp_path / "run").exists()


class TestPrograms:
    def test_the_next_day_traces_nothing_and_has_its_own_schedule(self, log, tmp_path, monkeypatch):
        traces, programs, stages = [], {}, []
        loss = base_stage.loss
        monkeypatch.setattr(base_stage, "loss", lambda *a: traces.append(None) or loss(*a))
        # The first day has fewer rows, items and users to train on than both together.
        for begin, days in ((DAYS[0], 1), (DAYS[0], 2)):
            config = write_log(log / "shop")
            end = pd.Timestamp(begin) + pd.Timedelta(days=days)
            dates = (begin, end - pd.Timedelta(hours=3), end, end + pd.Timedelta(days=1))
            config.data.split = "dates:" + "+".join(pd.Timestamp(d).isoformat() for d in dates)
            config.data.fixed_shapes = True
            parallel = Pmap(jax.devices()[:1])
            dataset = context.load_dataset(config, parallel)
            folder = tmp_path / str(days)
            run = runner.make_run(config, 0, folder, dataset, parallel, True, programs)
            WRITERS.append(run.writer)
            stage = base_stage.make(run)
            trained = pipeline.train_stage(run, stage)
            stages.append((stage, trained, len(traces)))
        (first, before, count), (second, after, again) = stages
        assert 0 < count == again
        shapes = [jax.tree.map(lambda x: x.shape, s.data.step_arguments) for s in (first, second)]
        assert shapes[0] == shapes[1]
        assert second.plan.steps_per_epoch > first.plan.steps_per_epoch
        alone = dataclasses.replace(run, folder=tmp_path / "alone", programs={})
        expected = pipeline.train_stage(alone, base_stage.make(alone))
        assert len(traces) > again
        jax.tree.map(np.testing.assert_array_equal, after.params, expected.params)
        assert before.digest != after.digest
        # Steps over which a weight falls are numbers in a program, and differ from day to day.
        losses = [functools.partial(finetune.loss, CohortInput(fade=n)) for n in (3, 3, 5)]
        keys = [run.shared_programs("genci", loss_fn).key for loss_fn in losses]
        assert keys[0] == keys[1] != keys[2]


class TestInitFrom:
    def test_rows_are_copied_by_value(self, finished, tmp_path):
        run = later_run(finished, tmp_path / "new", prefix="a", without=("i7",))
        fresh_run = dataclasses.replace(run, config=run.config.copy_and_resolve_references())
        fresh_run.config.init_from = ""
        stage = base_stage.make(run)
        found, fresh = (start.initial_state(one, stage)[0] for one in (run, fresh_run))
        folder = finished / DAYS[1] / "retrained"
        old = best_parameters(folder / "seed_0" / "base")["params"]
        there = start.read_values(folder)
        here = row_values(run.dataset)
        copied = 0
        for key, names in here.items():
            module, _, feature = key.partition("/")
            module = {"item": "items", "user": "user"}.get(module, "context")
            if key.startswith("count features"):
                continue
            table, own, source = (p[module][feature or key] for p in (found, fresh, old))
            first = len(table) - len(names)
            np.testing.assert_array_equal(table[:first], source[:first])
            rows = dict(zip(there[key], source[len(source) - len(there[key]) :], strict=True))
            for row, name in enumerate(names, start=first):
                expected = rows.get(name, own[row])
                np.testing.assert_array_equal(table[row], expected)
                copied += name in rows
        assert list(here["item/id"]) != list(there["item/id"])
        counts = run.started["base"]
        assert counts["items/id"] == {"copied": 11, "new": 4, "dropped": 5}
        assert counts["user/id"] == {"copied": 18, "new": 6, "dropped": 6}
        assert sum(count["copied"] for count in counts.values()) == copied
        described = outputs.describe_run(run.config, run.dataset, run.started)
        assert described["init_from"] == {"base": counts}
        jax.tree.map(np.testing.assert_array_equal, found["head"], old["head"])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("dim", r"other arrays .*Set as that run did: ranker.dim: 8 -> 4"),
            ("column", "was trained with item/price, which this run does not have. Name the same"),
            ("order", "other count features .*Name the same columns in the same order"),
        ],
    )
    def test_another_model_or_column_is_one_line(self, finished, tmp_path, change, message):
        columns = {"column": ("category",), "order": ("price", "category")}
        run = later_run(
            finished, tmp_path / "new", columns=columns.get(change, ("category", "price"))
        )
        if change == "dim":
            run.config.ranker.dim = 4
        with pytest.raises((CheckpointError, ConfigError), match=message) as found:
            start.initial_state(run, base_stage.make(run))
        assert "\n" not in str(found.value)

    def test_a_file_that_is_missing_or_damaged_is_named(self, finished, tmp_path):
        folder = tmp_path / "old"
        shutil.copytree(finished / DAYS[1] / "retrained", folder)
        run = later_run(finished, tmp_path / "new")
        run.config.init_from = str(folder)
        path = folder / VOCABULARY_FILE
        content = path.read_bytes()
        path.write_bytes(content[:100] + bytes([content[100] ^ 255]) + content[101:])
        for message in ("is damaged .*: delete it, and give the command", "there is no .*: give"):
            with pytest.raises(ConfigError, match=message) as found:
                start.initial_state(run, base_stage.make(run))
            assert str(path) in str(found.value)
            path.unlink(missing_ok=True)

    def test_semantic_ids_need_the_same_catalogue(self, finished, tmp_path):
        run = later_run(finished, tmp_path / "new", prefix="a")
        run.config.rows = ("base", "genci")
        with pytest.raises(ConfigError, match="semantic IDs cannot be kept: leave GenCI"):
            checks.require_settings(run)
