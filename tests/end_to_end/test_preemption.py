"""A run that gets SIGTERM saves its state, exits with 0, and goes on to the same bits."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import base
from nif_jax.experiment import evaluation, runner
from nif_jax.metrics.records import read_metrics
from nif_jax.metrics.writer import Progress
from nif_jax.training import loop
from nif_jax.training.devices import preemption
from tests.bad_input.workdir_cases import measured
from tests.end_to_end.runs import TINY, best_parameters

TEXT = TINY + ",train.log_dispatches=2,train.epochs=3.0"
LONG = TINY + ",train.log_dispatches=2,train.epochs=100.0,train.eval_epochs=25.0"
"""So long that a signal at the first line of the log comes before the end."""
ROOT = pathlib.Path(__file__).resolve().parents[2]


def curves(workdir: pathlib.Path) -> list:
    """metrics.jsonl without times and rates."""
    records = read_metrics(workdir / "seed_0" / "metrics.jsonl")
    return [
        (r["step"], r["stage"], {k: v for k, v in r["values"].items() if "per_second" not in k})
        for r in records
    ]


def steps_of(workdir: pathlib.Path, measurement: str) -> list[int]:
    return [step for step, _, values in curves(workdir) if measurement in values]


def assert_equal(whole: pathlib.Path, workdir: pathlib.Path) -> None:
    assert measured(workdir) == measured(whole)
    assert curves(workdir) == curves(whole)
    one, other = (best_parameters(w / "seed_0" / "base") for w in (whole, workdir))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def last_step(workdir: pathlib.Path) -> int:
    (step,) = (workdir / "seed_0" / "base" / "last").glob("[0-9]*")
    return int(step.name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    runner.run(base.get_config(TEXT), workdir, "train")
    return workdir


def stop(workdir, monkeypatch, where, name: str, call: int = 1) -> None:
    """Runs until a call of a function, during which SIGTERM comes."""
    function, calls = getattr(where, name), iter(range(1, 1000))

    def signalled(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **kwargs)

    monkeypatch.setattr(where, name, signalled)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(preemption.Stopped) as found, preemption.on_sigterm():
        runner.run(base.get_config(TEXT), workdir, "train")
    assert found.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(where, name, function)


class TestMoments:
    def test_in_the_middle_of_a_stage(self, whole, tmp_path, monkeypatch, capsys):
        stop(tmp_path, monkeypatch, Progress, "update", 6)
        step = last_step(tmp_path)
        assert step == steps_of(whole, "train/loss")[5] not in steps_of(whole, "validation/auc")
        said = f"stopped by SIGTERM after step {step} of base; run the same command to go on\n"
        assert capsys.readouterr().out.endswith(said)
        runner.run(base.get_config(TEXT), tmp_path, "train")
        assert_equal(whole, tmp_path)

    def test_again_and_again(self, whole, tmp_path, monkeypatch):
        steps = []
        for _ in range(3):
            stop(tmp_path, monkeypatch, Progress, "update")
            steps.append(last_step(tmp_path))
        assert steps == steps_of(whole, "train/loss")[:3]
        assert steps[0] < steps_of(whole, "validation/auc")[0]
        runner.run(base.get_config(TEXT), tmp_path, "train")
        assert_equal(whole, tmp_path)

    def test_in_an_evaluation(self, whole, tmp_path, monkeypatch):
        stop(tmp_path, monkeypatch, loop, "_judge")
        assert last_step(tmp_path) == steps_of(whole, "validation/auc")[0]
        runner.run(base.get_config(TEXT), tmp_path, "train")
        assert_equal(whole, tmp_path)

    def test_outside_of_training(self, whole, tmp_path, monkeypatch, capsys):
        stop(tmp_path, monkeypatch, evaluation, "test_scores")
        said = "stopped by SIGTERM; run the same command to go on\n"
        assert capsys.readouterr().out.endswith(said)
        runner.run(base.get_config(TEXT), tmp_path, "train")
        assert_equal(whole, tmp_path)


def start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "nif_jax.main", f"--config=configs/base.py:{LONG}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"NIF_JAX_CACHE": str(cache)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_process_exits_with_0(tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    process = start(workdir, tmp_path / "cache")
    said = []
    for line in process.stdout:
        said.append(line)
        if "ETA" in line:  # of a log step
            break
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(said) + rest
    assert time.monotonic() - begin < 30
    assert "stopped by SIGTERM" in rest and "run the same command to go on" in rest
    assert not (workdir / "results.json").exists()
    # In processes of their own: earlier tests may have set other flags of XLA in this one.
    ends = [start(folder, tmp_path / "cache") for folder in (workdir, whole)]
    assert [process.communicate(timeout=300) and process.returncode for process in ends] == [0, 0]
    assert_equal(whole, workdir)


def signalled_body() -> None:
    with preemption.on_sigterm(), preemption.deferred(lambda: "here"):
        assert not preemption.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested()
        # A second signal has the usual effect.
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_deferred_stops_after_its_body():
    with pytest.raises(preemption.Stopped) as found:
        signalled_body()
    assert found.value.place == "here"
    assert not preemption.requested()
