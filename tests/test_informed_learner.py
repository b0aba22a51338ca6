"""The learner that knows the simulated world and infers its users."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import informed_learner
from configs import nif
from nif_jax.data import sources, splits
from nif_jax.data.schema import NO_LABEL, ConfigError
from nif_jax.data.simulator import DAY, START
from nif_jax.stages import context
from nif_jax.training.devices.pmap import Pmap

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = "source.num_users=60,source.num_items=50"


def _world(tmp_path, monkeypatch, text=""):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path))
    config = nif.get_config(f"synthetic,{SMALL}{text}")
    lines = context.load_dataset(config, Pmap()).movelines
    return sources.world("synthetic", lines, seed=config.data.seed, **config.source)


def test_it_comes_near_the_bound_from_the_past_alone(tmp_path):
    # A process of its own: compiled code has to be fast.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.informed_learner",
            "--users=40",
            "--particles=32",
            f"--settings={SMALL}",
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "NIF_JAX_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "test impressions of 40 users" in done.stdout
    shares = dict(re.findall(r"^(\S.*?) +\.?[\d. ]+ ([\d.]+)$", done.stdout, re.MULTILINE))
    assert (float(shares["popularity"]), float(shares["bayes"])) == (0, 1)
    assert 0.8 < float(shares["informed learner"]) < 1.1  # noise may lift it above the bound


def test_without_a_past_it_has_the_prior(tmp_path, monkeypatch):
    world = _world(tmp_path, monkeypatch, ",source.scene_pull=0.0")
    learner = jax.jit(informed_learner.make_learner(world, 1000))
    item = np.arange(50)
    same = np.zeros(50, np.int32)
    day = np.linspace(0, 20, 50).astype(np.float32)
    found = learner(jax.random.key(0), item, same, day, same, np.zeros(50, np.float32))
    # Interests that are anywhere like no item more than another.
    np.testing.assert_allclose(found, found.mean(), atol=0.08)
    # The mean over the simulator's own users, whose interests come from the same prior.
    when = START + (DAY * day).astype(np.int64)
    users = np.arange(60)
    truth = [
        world.log_odds(users, np.zeros(60, int), np.full(60, t), np.full(60, i))
        for i, t in zip(item, when, strict=True)
    ]
    assert abs(found.mean() - np.mean(1 / (1 + np.exp(-np.stack(truth))))) < 0.04


def test_another_law_of_drift_is_refused(tmp_path, monkeypatch):
    world = _world(tmp_path, monkeypatch, ",source.law=own")
    with pytest.raises(ConfigError, match=r"source\.law=shared"):
        informed_learner.make_learner(world, 4)


def test_it_reads_the_labels_that_are_there_before_the_test_period(tmp_path, monkeypatch):
    world = _world(tmp_path, monkeypatch)
    data = context.load_dataset(nif.get_config(f"synthetic,{SMALL}"), Pmap())
    lines = data.movelines
    label = np.where(np.arange(lines.num_events) % 3 == 0, NO_LABEL, lines.label)
    hidden = dataclasses.replace(data, movelines=dataclasses.replace(lines, label=label))

    def count(key, item, scene, day, label, past):
        return jnp.full(past.shape, past.sum())

    monkeypatch.setattr(informed_learner, "make_learner", lambda *_: count)
    rows, found = informed_learner.foretell(hidden, world, users=60, particles=2)
    known = label != NO_LABEL
    before = known & (data.split != splits.TEST)
    np.testing.assert_array_equal(rows, np.flatnonzero(known & (data.split == splits.TEST)))
    np.testing.assert_array_equal(found, np.bincount(lines.user[before])[lines.user[rows]])
