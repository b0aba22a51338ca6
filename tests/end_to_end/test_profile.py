"""--profile: files, figures that hang together, and training that is not changed."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from nif_jax.experiment import pipeline
from nif_jax.stages import base, generator
from nif_jax.training import profile
from nif_jax.training.profile import Profiler
from tests.end_to_end.runs import TINY_NIF, make_run

ONE_EPOCH = TINY_NIF + ",train.epochs=1.0,pretrain.epochs=1.0"


def trained(folder, profiler, text=ONE_EPOCH):
    run = dataclasses.replace(make_run(folder, text), profiler=profiler)
    return [pipeline.train_stage(run, make(run)) for make in (base.make, generator.make)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Stages with and without a profile, and the folder of the profile."""
    plain, profiled = (tmp_path_factory.mktemp(name) for name in ("plain", "profiled"))
    return trained(plain, None), trained(profiled, Profiler(profiled)), profiled


def test_training_gives_the_same_arrays(measured):
    plain, profiled, _ = measured
    for one, other in zip(plain, profiled, strict=True):
        assert one.step == other.step and one.metrics == other.metrics
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
        jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


def test_a_trace_and_a_row_for_each_stage(measured):
    folder = measured[2]
    found = json.loads((folder / "profile.json").read_text())
    assert [row["stage"] for row in found["stages"]] == ["base", "generator"]
    table = (folder / "profile.md").read_text()
    for row in found["stages"]:
        assert list((folder / "profile" / row["stage"]).rglob("*.xplane.pb"))
        assert f"| {row['stage']} | {row['step_ms']:.2f} | {row['gflop']:.4f} |" in table
        seconds = row["step_ms"] / 1e3
        assert row["gflop_per_s"] == pytest.approx(row["gflop"] / seconds)
        share = row["gbyte"] / seconds / found["copy_gbyte_per_s"]
        assert row["of_copy"] == pytest.approx(share)
        assert row["of_matmul"] == pytest.approx(row["gflop_per_s"] / found["matmul_gflop_per_s"])
        assert 0 < row["of_matmul"] < 1


def test_a_finished_stage_is_not_measured(measured):
    _, _, folder = measured
    profiler = Profiler(folder)
    trained(folder, profiler)
    assert "| base |" not in profiler.table()


def test_counts_do_not_depend_on_passes_and_grow_with_rows(tmp_path):
    def flops(name, text):
        run = make_run(tmp_path / name, f"{ONE_EPOCH},{text}")
        built = base.make(run)
        profiler = Profiler(tmp_path / name)
        pipeline.train_stage(dataclasses.replace(run, profiler=profiler), built)
        found = json.loads((tmp_path / name / "profile.json").read_text())
        return found["stages"][0]["gflop"]

    whole = flops("whole", "train.microbatch=0")
    assert flops("passes", "train.microbatch=16") == whole
    # The update of the parameters does not grow with the rows.
    assert 1.2 < flops("twice", "train.batch_size=128") / whole < 2


def test_mfu_is_known_where_the_peak_is(monkeypatch):
    monkeypatch.setattr(profile, "machine_rates", lambda: (2e9, 4e9))
    kind = jax.local_devices()[0].device_kind
    row = profile._row("base", 0.5, 1e8, 1e8)
    assert row.mfu is None
    assert (row.of_matmul, row.of_copy) == (0.1, 0.05)
    monkeypatch.setitem(profile.PEAK, kind, 1e9)
    assert profile._row("base", 0.5, 1e8, 1e8).mfu == 0.2


def test_only_training_is_profiled():
    command = [sys.executable, "-m", "nif_jax.main", "--config=configs/base.py"]
    found = subprocess.run(
        [*command, "--mode=evaluate", "--profile"], capture_output=True, text=True, check=False
    )
    assert found.returncode and "--profile goes with --mode=train" in found.stderr + found.stdout
