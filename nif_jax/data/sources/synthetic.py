"""Movelines of simulated users whose click probability is known; see data/simulator.py."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nif_jax.data import simulator
from nif_jax.data.schema import DataError, RawTables
from nif_jax.data.simulator import START, World, sphere

_CHUNK = 65_536  # events simulated at a time: bounds the memory, and fixes the random stream
_CATEGORIES = 12  # and four times as many styles
_SYLLABLES = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "nu", "pa", "re", "so", "ti", "va", "zu")


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Simulated events, sorted by (user, time), and the truth behind them.

    Attributes:
      world: the law.
      user: [E] int64 in 0..U-1.
      item, scene: [E] int64 in 0..N-1 and 0..S-1.
      time: [E] int64 seconds, increasing within a user.
      label: [E] int8.
      logit: [E] float64, the true log odds of a click.
      joined: [U] int64 seconds, when a user entered.
      seed: what all of it was drawn by.
    """

    world: World
    user: np.ndarray
    item: np.ndarray
    scene: np.ndarray
    time: np.ndarray
    label: np.ndarray
    logit: np.ndarray
    joined: np.ndarray
    seed: int

    @property
    def probability(self) -> np.ndarray:
        """[E] float64, the true probability of a click."""
        return simulator.sigmoid(self.logit)


def simulate(
    *,
    num_users: int = 1000,
    num_items: int = 500,
    events_per_user: float = 100.0,
    days: float = 50.0,
    dim: int = 4,
    interests: int = 2,
    law: str = "shared",
    drift: float = 0.2,
    noise: float = 0.1,
    scenes: int = 3,
    scene_pull: float = 0.3,
    popularity: float = 0.8,
    eagerness: float = 3.0,
    click_rate: float = 0.35,
    turnover: float = 0.0,
    cold_items: float = 0.0,
    cold_users: float = 0.0,
    seed: int = 0,
) -> Simulation:
    """Simulates movelines; see nif_jax/data/simulator.py for the law.

    Args:
      num_users, num_items: U and N.
      events_per_user: mean of those who are there from the start; nobody has fewer than two.
      days: length of the simulated period.
      dim: D, at least 2, and even under the shared law.
      interests: K.
      law: where interests drift to: "shared" (one current for all) or "own" (each its own way).
      drift: angular velocity of interests, radians a day; 0 = static.
      noise: how far the click is from deterministic; the best possible AUC falls with it.
      scenes: S.
      scene_pull: how far a scene shifts an interest.
      popularity: the item of rank r is drawn into slates with odds r^-popularity; ranks have
        nothing to do with position on the sphere.
      eagerness: how much the system shows what suits an interest; 0 = slates are shown at random.
      click_rate: share of events whose logit is positive.
      turnover: share of the catalogue that is replaced during the period, at most 1.
      cold_items, cold_users: share that enters so late that an 80 % train part by time has no event
        of it, at most 0.4.
      seed: of everything drawn.

    Raises:
      DataError: a knob is out of its range.
    """
    _within(1, np.inf, num_users=num_users, interests=interests, scenes=scenes)
    _within(2, np.inf, dim=dim, events_per_user=events_per_user, num_items=num_items)
    _within(1e-6, np.inf, noise=noise, days=days)
    _within(0, np.inf, drift=drift, scene_pull=scene_pull, eagerness=eagerness)
    _within(0, np.inf, popularity=popularity)
    _within(0.01, 0.99, click_rate=click_rate)
    _within(0, 1, turnover=turnover)
    _within(0, 0.4, cold_items=cold_items, cold_users=cold_users)
    if law not in ("shared", "own") or (law == "shared" and dim % 2):
        raise DataError(
            f"synthetic: law={law!r} with dim={dim}; choose 'shared' and an even dim, or 'own'"
        )
    rng = np.random.default_rng(seed)
    enter, leave = simulator.draw_lives(rng, num_items, days, turnover, cold_items)
    world = World(
        planes=simulator.draw_planes(rng, num_users, interests, dim, law),
        scene_vectors=sphere(rng, scenes, dim),
        item_vectors=sphere(rng, num_items, dim),
        popularity=(1.0 + rng.permutation(num_items)) ** -popularity,
        enter=enter,
        leave=leave,
        drift=drift,
        pull=scene_pull,
        eagerness=eagerness,
        threshold=0.0,
        noise=noise,
        mean_gap=days * simulator.DAY / events_per_user,
    )
    joined = simulator.late(rng, num_users, days, cold_users)
    user, time = simulator.draw_times(rng, events_per_user, days, joined)
    scene = rng.integers(0, scenes, len(user))
    item = np.concatenate(
        [_show(rng, world, user[c], scene[c], time[c]) for c in _chunks(len(user))]
    )
    affinity = world.affinity(user, scene, time, item)
    world = dataclasses.replace(world, threshold=float(np.quantile(affinity, 1 - click_rate)))
    logit = (affinity - world.threshold) / noise
    label = (rng.random(len(user)) < simulator.sigmoid(logit)).astype(np.int8)
    return Simulation(world, user, item, scene, time, label, logit, START + joined, seed)


def synthetic(**knobs: Any) -> RawTables:
    """`simulate` as raw tables, rows in the same order; see there for the arguments.

    The action is "click" or "skip", and events have their true log odds ("truth"). Items have a
    category, two styles (the nearest anchors on the sphere) and a title made of their words; users
    have the category of the item nearest to their first interest when they enter.
    """
    found = simulate(**knobs)
    events = pd.DataFrame(
        {
            "user_id": found.user,
            "item_id": found.item,
            "timestamp": found.time,
            "scene": np.char.add("scene", found.scene.astype(str)),
            "action": np.where(found.label == 1, "click", "skip"),
            "label": found.label,
            "truth": found.logit,
        }
    )
    law, everyone = found.world, np.arange(len(found.joined))
    items, category = _describe_items(law.item_vectors, found.seed)
    first = law.unpulled(everyone, found.joined)[:, 0]
    liked = _nearest(first, law.item_vectors, 1)[:, 0]
    users = pd.DataFrame({"user_id": everyone, "leaning": category[liked]})
    return RawTables("synthetic", events, items, users, f"simulated, seed {found.seed}")


def world(vocabulary: Mapping[str, np.ndarray], **knobs: Any) -> World:
    """The law behind `synthetic(**knobs)`, its rows in the order of Movelines.vocabulary.

    So item id i of the store is row i - 1 here, likewise scenes, and user u is row u.
    """
    found = simulate(**knobs).world
    users = vocabulary["user"].astype(np.int64)
    items = vocabulary["item"].astype(np.int64)
    scenes = np.array([int(name.removeprefix("scene")) for name in vocabulary["scene"]])
    return dataclasses.replace(
        found,
        planes=found.planes[users],
        scene_vectors=found.scene_vectors[scenes],
        item_vectors=found.item_vectors[items],
        popularity=found.popularity[items],
        enter=found.enter[items],
        leave=found.leave[items],
    )


def fingerprint(**_: str | float) -> str:
    """Nothing is read: the knobs, which are part of every cache key already, say it all."""
    return ""


def _within(low: float, high: float, **knobs: float) -> None:
    for knob, value in knobs.items():
        if not low <= value <= high:
            bounds = f"at least {low}" if high == np.inf else f"{low} to {high}"
            raise DataError(f"synthetic: {knob}={value} is out of range, {bounds}")


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]


def _show(rng: np.random.Generator, world: World, user, scene, time) -> np.ndarray:
    """The item shown [E]: from a slate by popularity, to suit one interest."""
    rows = np.arange(len(user))
    slate = world.draw_slates(rng, time, simulator.SLATE)
    interests = world.interests(user, scene, time)
    suits = interests[rows, rng.integers(0, interests.shape[1], len(user))]
    score = world.eagerness * np.einsum("ed,ecd->ec", suits, world.item_vectors[slate])
    return slate[rows, np.argmax(score + rng.gumbel(size=score.shape), axis=1)]


def _nearest(points: np.ndarray, anchors: np.ndarray, k: int) -> np.ndarray:
    """[P, k] the anchors with the largest cosine, the nearest first."""
    return np.argsort(-(points @ anchors.T), axis=1, kind="stable")[:, :k]


def _describe_items(vectors: np.ndarray, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Table of items at [N, D], and their categories [N]."""
    rng = np.random.default_rng([seed, 1])
    dim = vectors.shape[1]
    near = _nearest(vectors, sphere(rng, _CATEGORIES, dim), 1)[:, 0]
    category = np.char.add("category", near.astype(str))
    styles = _nearest(vectors, sphere(rng, 4 * _CATEGORIES, dim), 2)
    words = _words(4 * _CATEGORIES)
    pairs = list(zip(words[styles[:, 0]], words[styles[:, 1]], strict=True))
    table = pd.DataFrame(
        {
            "item_id": np.arange(len(vectors)),
            "title": [f"{a} {b}" for a, b in pairs],
            "category": category,
            "style": [f"{a}|{b}" for a, b in pairs],
        }
    )
    return table, category


def _words(count: int) -> np.ndarray:
    """[count] distinct made-up words of three syllables, at most 14^3 = 2,744."""
    index = np.arange(count)
    syllables = np.array(_SYLLABLES)
    size = len(syllables)
    words = np.char.add(syllables[index % size], syllables[index // size % size])
    return np.char.add(words, syllables[index // size**2])
