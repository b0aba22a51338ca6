"""Movelines of simulated users whose click probability is known.

A user has K interests, points on the unit sphere in D dimensions. Each moves along its own great
circle with the angular velocity `drift`:

    u_k(t) = cos(drift t) a_k + sin(drift t) b_k,   a_k, b_k orthonormal,  t in days,

and a scene s pulls it towards the scene's direction v_s:  u_ks(t) = normalise(u_k(t) + pull v_s).
An item is a point x on the sphere too. It is shown from a slate drawn by popularity, to suit one
interest of the user, and clicked with probability

    p = sigmoid(logit),   logit = (max_k <u_ks(t), x> - threshold) / noise.

So no model can have a higher expected AUC than `probability` has, and how near it comes is known.
"""

import dataclasses

import numpy as np
import pandas as pd

from nif_jax.data.schema import DataError, RawTables

_START = 1_600_000_000  # unix seconds of the first possible event
_DAY = 86_400
_CHUNK = 65_536  # events simulated at a time: bounds the memory, and fixes the random stream
_SLATE = 8  # items among which the simulated system picks the one it shows
_EAGERNESS = 4.0  # how much the pick goes by suiting the interest, in logits per unit of cosine
_SYLLABLES = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "nu", "pa", "re", "so", "ti", "va", "zu")


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Simulated events, sorted by (user, time), and the truth behind them.

    Attributes:
      user: [E] int64 in 0..U-1.
      item, scene: [E] int64 in 0..N-1 and 0..S-1.
      time: [E] int64 seconds, increasing within a user.
      label: [E] int8.
      logit: [E] float64, the true log odds of a click.
      item_vectors: [N, D] unit vectors.
      interests: [U, K, 2, D]; (a_k, b_k) of the module's docstring.
      scene_vectors: [S, D] unit vectors v_s.
      category: [N] int64, the nearest category vector of an item.
      styles: [N, 2] int64, the two nearest style vectors of an item.
    """

    user: np.ndarray
    item: np.ndarray
    scene: np.ndarray
    time: np.ndarray
    label: np.ndarray
    logit: np.ndarray
    item_vectors: np.ndarray
    interests: np.ndarray
    scene_vectors: np.ndarray
    category: np.ndarray
    styles: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """[E] float64, the true probability of a click."""
        return _sigmoid(self.logit)


def simulate(
    *,
    num_users: int = 1000,
    num_items: int = 500,
    events_per_user: float = 60.0,
    dim: int = 8,
    interests: int = 3,
    drift: float = 0.05,
    noise: float = 0.15,
    scenes: int = 3,
    scene_pull: float = 0.3,
    categories: int = 12,
    click_rate: float = 0.35,
    seed: int = 0,
) -> Simulation:
    """Simulates movelines; see the module's docstring for the model.

    Args:
      num_users, num_items: U and N.
      events_per_user: mean of a shifted Poisson law; nobody has fewer than two events.
      dim: D, at least 2.
      interests: K.
      drift: angular velocity of interests, radians a day. Events are half a day apart on average.
      noise: how far the click is from deterministic; the best possible AUC falls with it.
      scenes: S.
      scene_pull: length of v_s against the interest's 1.
      categories: number of item categories; there are four times as many styles.
      click_rate: share of events whose logit is positive.
      seed: of everything drawn.

    Raises:
      DataError: a knob is out of its range.
    """
    _at_least(1, num_users=num_users, interests=interests, scenes=scenes, categories=categories)
    _at_least(2, dim=dim, events_per_user=events_per_user)
    _at_least(_SLATE, num_items=num_items)
    _at_least(1e-6, noise=noise)
    rng = np.random.default_rng(seed)
    item_vectors = _sphere(rng, num_items, dim)
    scene_vectors = _sphere(rng, scenes, dim)
    planes = _planes(rng, num_users, interests, dim)
    category = _nearest(item_vectors, _sphere(rng, categories, dim), 1)[:, 0]
    styles = _nearest(item_vectors, _sphere(rng, 4 * categories, dim), 2)

    counts = 2 + rng.poisson(events_per_user - 2, num_users)
    user = np.repeat(np.arange(num_users), counts)
    time = _times(rng, counts)
    scene = rng.integers(0, scenes, len(user))
    # Popularity: rank^-0.8 in an order that has nothing to do with position on the sphere.
    popularity = (1.0 + rng.permutation(num_items)) ** -0.8

    item, affinity = np.empty(len(user), np.int64), np.empty(len(user))
    for start in range(0, len(user), _CHUNK):
        rows = slice(start, start + _CHUNK)
        angle = drift * (time[rows] - _START) / _DAY
        current = _interests_at(planes[user[rows]], angle, scene_pull * scene_vectors[scene[rows]])
        item[rows], affinity[rows] = _show(rng, current, item_vectors, popularity)
    logit = (affinity - np.quantile(affinity, 1 - click_rate)) / noise
    label = (rng.random(len(user)) < _sigmoid(logit)).astype(np.int8)
    return Simulation(
        user, item, scene, time, label, logit, item_vectors, planes, scene_vectors, category, styles
    )


def synthetic(
    *,
    num_users: int = 1000,
    num_items: int = 500,
    events_per_user: float = 60.0,
    dim: int = 8,
    interests: int = 3,
    drift: float = 0.05,
    noise: float = 0.15,
    scenes: int = 3,
    seed: int = 0,
) -> RawTables:
    """`simulate` as raw tables, rows in the same order; see there for the arguments.

    The action is "click" or "skip". Items have a category, two styles and a title made of their
    words; users have the category nearest to their first interest.
    """
    truth = simulate(
        num_users=num_users, num_items=num_items, events_per_user=events_per_user, dim=dim,
        interests=interests, drift=drift, noise=noise, scenes=scenes, seed=seed,
    )  # fmt: skip
    events = pd.DataFrame(
        {
            "user_id": truth.user,
            "item_id": truth.item,
            "timestamp": truth.time,
            "scene": np.char.add("scene", truth.scene.astype(str)),
            "action": np.where(truth.label == 1, "click", "skip"),
            "label": truth.label,
        }
    )
    words = _words(truth.styles.max() + 1)
    first, second = words[truth.styles[:, 0]], words[truth.styles[:, 1]]
    category = np.char.add("category", truth.category.astype(str))
    items = pd.DataFrame(
        {
            "item_id": np.arange(num_items),
            "title": [f"{a} {b}" for a, b in zip(first, second, strict=True)],
            "category": category,
            "style": [f"{a}|{b}" for a, b in zip(first, second, strict=True)],
        }
    )
    liked = _nearest(truth.interests[:, 0, 0], truth.item_vectors, 1)[:, 0]
    users = pd.DataFrame({"user_id": np.arange(num_users), "leaning": category[liked]})
    return RawTables("synthetic", events, items, users, f"simulated, seed {seed}")


def fingerprint(**_: float) -> str:
    """Nothing is read: the knobs, which are part of every cache key already, say it all."""
    return ""


def _at_least(bound: float, **knobs: float) -> None:
    for knob, value in knobs.items():
        if value < bound:
            raise DataError(f"synthetic: {knob}={value} is too small, at least {bound}")


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logit))  # does not overflow


def _normalise(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _sphere(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """[count, D] unit vectors, uniform on the sphere."""
    return _normalise(rng.normal(size=(count, dim)))


def _planes(rng: np.random.Generator, users: int, interests: int, dim: int) -> np.ndarray:
    """[U, K, 2, D] orthonormal pairs, by Gram-Schmidt."""
    a, b = rng.normal(size=(2, users, interests, dim))
    a = _normalise(a)
    b = _normalise(b - (a * b).sum(-1, keepdims=True) * a)
    return np.stack([a, b], axis=2)


def _nearest(points: np.ndarray, anchors: np.ndarray, k: int) -> np.ndarray:
    """[P, k] the anchors with the largest cosine, the nearest first."""
    return np.argsort(-(points @ anchors.T), axis=1, kind="stable")[:, :k]


def _times(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """[E] int64 seconds: users start within 30 days, gaps are exponential, and never 0."""
    gaps = 1 + rng.exponential(_DAY / 2, counts.sum()).astype(np.int64)
    elapsed = np.cumsum(gaps)
    first = np.cumsum(counts) - counts
    start = _START + rng.integers(0, 30 * _DAY, len(counts))
    return elapsed + np.repeat(start - elapsed[first], counts)


def _interests_at(planes: np.ndarray, angle: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """u_ks(t) [E, K, D] of planes [E, K, 2, D], angles [E] and scene pulls [E, D]."""
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return _normalise(cos * planes[:, :, 0] + sin * planes[:, :, 1] + pull[:, None])


def _show(
    rng: np.random.Generator, current: np.ndarray, items: np.ndarray, popularity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The item shown [E], and its cosine [E] with the user's nearest interest of [E, K, D]."""
    count, interests, _ = current.shape
    slate = rng.choice(len(items), (count, _SLATE), p=popularity / popularity.sum())
    suits = current[np.arange(count), rng.integers(0, interests, count)]
    score = _EAGERNESS * np.einsum("ed,ecd->ec", suits, items[slate])
    pick = np.argmax(score + rng.gumbel(size=score.shape), axis=1)
    item = slate[np.arange(count), pick]
    return item, np.einsum("ekd,ed->ek", current, items[item]).max(axis=1)


def _words(count: int) -> np.ndarray:
    """[count] distinct made-up words of three syllables, at most 14^3 = 2,744."""
    index = np.arange(count)
    syllables = np.array(_SYLLABLES)
    size = len(syllables)
    words = np.char.add(syllables[index % size], syllables[index // size % size])
    return np.char.add(words, syllables[index // size**2])
