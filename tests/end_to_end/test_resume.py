"""A run that is killed resumes with the same bits; seeds, checkpoints and init_from."""

import jax
import numpy as np
import pytest

from configs import base
from nif_jax.data import ranges
from nif_jax.experiment import pipeline, runner, start
from nif_jax.metrics.writer import read_metrics
from nif_jax.reports import results
from nif_jax.stages import base as base_stage
from nif_jax.stages import generator
from nif_jax.training import checkpoint
from tests.end_to_end.runs import TINY, TINY_NIF, best_parameters, make_run


class _KilledError(BaseException):
    """Stands for the signal that ends a process."""


class TestResume:
    @pytest.mark.parametrize("saves", [1, 2])
    def test_a_killed_run_ends_with_the_same_bits(self, tmp_path, monkeypatch, saves):
        config = base.get_config(TINY)
        runner.run(config, tmp_path / "whole", "train")
        save, count = checkpoint.Checkpointer.save_last, iter(range(100))

        def save_and_die(self, *args):
            save(self, *args)
            if next(count) + 1 == saves:
                raise _KilledError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpointer, "save_last", save_and_die)
            with pytest.raises(_KilledError):
                runner.run(config, tmp_path / "broken", "train")
        runner.run(config, tmp_path / "broken", "train")
        whole, broken = (tmp_path / n / "seed_0" for n in ("whole", "broken"))
        jax.tree.map(
            np.testing.assert_array_equal,
            best_parameters(whole / "base"),
            best_parameters(broken / "base"),
        )

        def losses(folder):
            records = read_metrics(folder / "metrics.jsonl")
            keep = ("train/loss", "validation/auc")
            return [
                (r["step"], {k: v for k, v in r["values"].items() if k in keep}) for r in records
            ]

        assert losses(whole) == losses(broken)

    def test_large_logs_and_tables_resume_with_the_same_bits(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ranges, "LARGE", 1)
        large = "data.input=host,train.sparse_rows=1,pretrain.sparse_rows=1"
        text = f"{TINY_NIF},{large},flow_loss.negatives=in_batch,ranker.statistics=none"

        def train(folder):
            run = make_run(folder, text)
            stage = base_stage.make(run)
            assert stage.lookups is not None and not stage.data.on_device
            trained = pipeline.train_stage(run, stage)
            pipeline.train_stage(run, generator.make(run), trained.params, [trained])

        train(tmp_path / "whole")
        save, saves = checkpoint.Checkpointer.save_last, []

        def save_and_die(self, *args):
            save(self, *args)
            saves.append(self.folder.name)
            if saves.count(saves[-1]) == 1:
                raise _KilledError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpointer, "save_last", save_and_die)
            for _ in range(2):
                with pytest.raises(_KilledError):
                    train(tmp_path / "broken")
        train(tmp_path / "broken")
        assert set(saves) == {"base", "generator"}
        for stage in ("base", "generator"):
            both = (best_parameters(tmp_path / name / stage) for name in ("whole", "broken"))
            jax.tree.map(np.testing.assert_array_equal, *both)

    def test_killed_between_best_and_last(self, tmp_path, monkeypatch):
        config = base.get_config(TINY)

        def die(*_):
            raise _KilledError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpointer, "save_last", die)
            with pytest.raises(_KilledError):
                runner.run(config, tmp_path, "train")
        runner.run(config, tmp_path, "train")
        assert results.read_results(tmp_path)["rows"]

    def test_seeds_decide_the_bits(self, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            runner.run(base.get_config(TINY + f",seed={seed}"), tmp_path / name, "train")
        a, b, c = (
            best_parameters(tmp_path / name / f"seed_{seed}" / "base")["params"]["head"]
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        jax.tree.map(np.testing.assert_array_equal, a, b)
        assert not np.array_equal(a["Dense_0"]["kernel"], c["Dense_0"]["kernel"])

    def test_a_half_written_checkpoint_is_passed_over(self, tmp_path):
        config = base.get_config(TINY)
        runner.run(config, tmp_path, "train")
        before = results.read_results(tmp_path)["rows"][0]["auc"]
        last = tmp_path / "seed_0" / "base" / "last"
        (last / "9999.orbax-checkpoint-tmp").mkdir()
        runner.run(config, tmp_path, "evaluate")
        assert results.read_results(tmp_path)["rows"][0]["auc"] == before

    def test_a_checkpoint_of_other_shapes_is_refused(self, tmp_path):
        runner.run(base.get_config(TINY), tmp_path / "old", "train")
        text = TINY.replace("ranker.dim=8", "ranker.dim=4")
        with pytest.raises(checkpoint.CheckpointError, match="other arrays"):
            runner.run(
                base.get_config(f"{text},init_from={tmp_path}/old"), tmp_path / "new", "train"
            )

    def test_init_from_starts_where_the_other_run_ended(self, tmp_path):
        runner.run(base.get_config(TINY), tmp_path / "old", "train")
        run = make_run(tmp_path / "new", f"{TINY_NIF},init_from={tmp_path}/old")
        params, _ = start.initial_state(run, base_stage.make(run))
        old = best_parameters(tmp_path / "old" / "seed_0" / "base")["params"]
        jax.tree.map(np.testing.assert_array_equal, params, old)
        # Damage to it is not taken for damage to this run's own stage, and the file is named.
        (manifest,) = (tmp_path / "old").glob("seed_0/base/best/*/tree/manifest.ocdbt")
        manifest.write_bytes(manifest.read_bytes()[:-1] + b"x")
        message = r"config.init_from: .*tree/manifest\.ocdbt has changed.*command of that workdir"
        with pytest.raises(checkpoint.CheckpointError, match=message):
            start.initial_state(run, base_stage.make(run))
