"""The days of a log, and the config of the run that predicts one."""

import pathlib

import numpy as np
import pytest

from configs import nif
from nif_jax.experiment.days import NEVER, RETRAINED, UPDATED, list_days, way_config

HOUR, DAY = 3600, 86_400
TIME = np.concatenate([day * DAY + HOUR * np.arange(10) for day in (0, 1, 4, 5)])


def test_days_are_those_with_impressions_in_the_time_zone():
    days = list_days(TIME[::-1], "UTC", 0.1)
    assert [day.name for day in days] == ["1970-01-01", "1970-01-02", "1970-01-05", "1970-01-06"]
    assert [(day.begin, day.end) for day in days] == [
        (d * DAY, (d + 1) * DAY) for d in (0, 1, 4, 5)
    ]
    assert [day.held_out - day.begin for day in days] == [9 * HOUR] * 4
    # In New York, five hours behind, the first five impressions are of the day before.
    there = list_days(TIME, "America/New_York", 0.2)
    assert there[0].name == "1969-12-31" and there[0].end == 5 * HOUR
    assert there[0].held_out == 4 * HOUR and len(there) == 6


def test_one_impression_makes_a_day_that_holds_it_out():
    (day,) = list_days(np.array([7]), "UTC", 0.5)
    assert (day.begin, day.held_out, day.end) == (0, 7, DAY)
    assert list_days(np.array([], np.int64), "UTC", 0.5) == []


@pytest.mark.parametrize(
    ("way", "replay", "first", "split"),
    [
        (RETRAINED, 1, 1, "1970-01-01T00:00:00+1970-01-05T09:00:00+1970-01-06T00:00:00"),
        (UPDATED, 1, 1, "1970-01-05T00:00:00+1970-01-05T09:00:00+1970-01-06T00:00:00"),
        (UPDATED, 2, 1, "1970-01-02T00:00:00+1970-01-05T09:00:00+1970-01-06T00:00:00"),
        (UPDATED, 9, 1, "1970-01-01T00:00:00+1970-01-05T09:00:00+1970-01-06T00:00:00"),
        (NEVER, 1, 1, "1970-01-01T00:00:00+1970-01-01T09:00:00+1970-01-02T00:00:00"),
        (NEVER, 1, 2, "1970-01-01T00:00:00+1970-01-02T09:00:00+1970-01-05T00:00:00"),
    ],
)
def test_each_way_trains_on_its_days(way, replay, first, split):
    config = nif.get_config("rows=constant+base+nif,train.warmup_steps=20")
    config.daily.replay_days, config.daily.first_days = replay, first
    config.daily.epochs_share, config.daily.learning_rate_share = 0.25, 0.5
    start = None if way == RETRAINED else pathlib.Path("runs/yesterday")
    own = way_config(config, list_days(TIME, "UTC", 0.1), 3, way, start)
    assert own.data.split == f"dates:{split}+1970-01-07T00:00:00"
    assert own.rows == ("base", "nif") and config.rows[0] == "constant"
    epochs, rate = {UPDATED: (0.25, 0.5), NEVER: (0, 0)}.get(way, (1, 1))
    for name in ("train", "pretrain"):
        assert own[name].epochs == epochs * config[name].epochs
        assert own[name].learning_rate == rate * config[name].learning_rate
        assert own[name].warmup_steps == round(epochs * config[name].warmup_steps)
        assert own[name].eval_epochs <= max(own[name].epochs, config[name].eval_epochs)
    assert own.train.min_steps == epochs * config.train.min_steps
    assert own.init_from == ("" if start is None else "runs/yesterday")
