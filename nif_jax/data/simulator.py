"""A world of drifting interests whose click probability and next-item law are known.

A user has K interests, points on the unit sphere in D dimensions. Each moves along a great circle
with the angular velocity `drift`, and a scene s pulls it towards the scene's direction v_s:

    u_k(t)  = cos(drift t) a_k + sin(drift t) b_k,   a_k, b_k orthonormal,  t in days,
    u_ks(t) = normalise(u_k(t) + pull v_s).

The law of drift says where b_k points. "shared": b_k = J a_k with one rotation J by 90 degrees in
D / 2 fixed planes (J J = -1), so that all interests follow one current, as first-time parents and
students each do, and where an interest goes next can be learned from what others did next. "own":
b_k is drawn for each interest, so that only the user's own past tells its direction.

An item is a point x on the sphere, alive from `enter` to `leave`. An event comes about like this:
a slate of C items is drawn by popularity among those alive; one of the user's interests, k, each as
likely, picks x from it with odds exp(eagerness <u_ks(t), x>); the user clicks with probability

    p = sigmoid(logit),   logit = (max_k <u_ks(t), x> - threshold) / noise.

No model can have a higher expected AUC, or a lower expected LogLoss, than p has. And for slates
drawn with replacement the law of the item shown is one integral, whatever the number of slates:
with w_i = exp(eagerness <u, x_i>), popularity q_i and phi(z) = sum_j q_j exp(-w_j z),

    P(i | k) = C q_i w_i E[1 / (w_i + W_1 + .. + W_{C-1})]
             = C q_i w_i integral_0^inf exp(-w_i z) phi(z)^(C-1) dz,    as 1/a = int exp(-a z) dz.
"""

import dataclasses

import numpy as np

from nif_jax.data.schema import DataError

START = 1_600_000_000  # unix seconds of the first possible event
DAY = 86_400
SLATE = 8
"""C, items among which the simulated system picks the one it shows."""

_FOREVER = np.iinfo(np.int64).max
# log z of the trapezoid rule; the integrand is analytic in it and falls off on both sides, so that
# the error falls exponentially with the step: below 1e-6 here.
_LOG_Z = np.arange(-17.0, 7.1, 0.5)


@dataclasses.dataclass(frozen=True)
class World:
    """What is true of users, scenes and items; ids count from 0, times are unix seconds.

    Attributes:
      planes: [U, K, 2, D]; (a_k, b_k) of the module's docstring.
      scene_vectors: [S, D] unit vectors v_s.
      item_vectors: [N, D] unit vectors.
      popularity: [N] weights of being drawn into a slate.
      enter, leave: [N] int64 seconds; an item is alive where enter <= time < leave.
      drift: radians a day.
      pull: length of v_s against an interest's 1.
      eagerness: log odds of the pick by unit of cosine.
      threshold: cosine at which a click is as likely as not.
      noise: how far clicks are from deterministic.
      mean_gap: seconds between two events of a user, on average.
    """

    planes: np.ndarray
    scene_vectors: np.ndarray
    item_vectors: np.ndarray
    popularity: np.ndarray
    enter: np.ndarray
    leave: np.ndarray
    drift: float
    pull: float
    eagerness: float
    threshold: float
    noise: float
    mean_gap: float

    def unpulled(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """u_k(t) [B, K, D] of users and times [B], wherever they are."""
        angle = (self.drift * (time - START) / DAY)[:, None, None]
        return np.cos(angle) * self.planes[user, :, 0] + np.sin(angle) * self.planes[user, :, 1]

    def interests(self, user: np.ndarray, scene: np.ndarray, time: np.ndarray) -> np.ndarray:
        """u_ks(t) [B, K, D] of users, scenes and times [B]."""
        pull = self.pull * self.scene_vectors[scene]
        return normalise(self.unpulled(user, time) + pull[:, None])

    def affinity(self, user, scene, time, item: np.ndarray) -> np.ndarray:
        """[B, ...] cosine of items [B, ...] with the nearest interest of each row."""
        shown = self.item_vectors[item.reshape(len(item), -1)]
        found = np.einsum("bkd,bcd->bkc", self.interests(user, scene, time), shown).max(1)
        return found.reshape(item.shape)

    def log_odds(self, user, scene, time, item: np.ndarray) -> np.ndarray:
        """[B, ...] float64 logit of a click on items [B, ...]."""
        return (self.affinity(user, scene, time, item) - self.threshold) / self.noise

    def draw_slates(self, rng: np.random.Generator, time: np.ndarray, size: int) -> np.ndarray:
        """[B, size] items alive at times [B], by popularity and with replacement.

        Raises:
          DataError: at some time no item is alive.
        """
        empty = self.alive_counts(time) == 0
        if empty.any():
            days = (time[np.argmax(empty)] - START) / DAY
            raise DataError(
                f"synthetic: no item is alive on day {days:.1f}; lower turnover or cold_items, or "
                "raise num_items"
            )
        time = np.repeat(time[:, None], size, axis=1)
        slate = np.zeros(time.shape, np.int64)
        share = self.popularity / self.popularity.sum()
        open_ = np.ones(time.shape, bool)
        while open_.any():  # items that are not alive are drawn again
            drawn = rng.choice(len(share), int(open_.sum()), p=share)
            slate[open_] = drawn
            open_[open_] = (self.enter[drawn] > time[open_]) | (self.leave[drawn] <= time[open_])
        return slate

    def alive_counts(self, time: np.ndarray) -> np.ndarray:
        """[B] number of items alive at times [B]."""
        born = np.searchsorted(np.sort(self.enter), time, side="right")
        return born - np.searchsorted(np.sort(self.leave), time, side="right")

    def next_item(self, user: np.ndarray, scene: np.ndarray, time: np.ndarray) -> np.ndarray:
        """[B, N] probability of each item to be the one shown; see P(i | k) above.

        Takes B x K x N x 49 numbers of memory: mind B.
        """
        alive = (self.enter <= time[:, None]) & (time[:, None] < self.leave)
        share = alive * self.popularity
        share = share / share.sum(1, keepdims=True)  # [B, N]
        cosine = np.einsum("bkd,nd->bkn", self.interests(user, scene, time), self.item_vectors)
        weight = np.exp(self.eagerness * (cosine - 1))
        # Picks depend on ratios: a mean of 1 puts the integrand where the nodes are.
        weight /= weight @ share[..., None]
        z = np.exp(_LOG_Z)
        falling = np.exp(-weight[..., None] * z)  # [B, K, N, Z]
        phi = (share[:, None, None] @ falling)[:, :, 0]  # [B, K, Z]
        step = z * (_LOG_Z[1] - _LOG_Z[0])  # dz = z dlog z
        integral = (falling @ (phi ** (SLATE - 1) * step)[..., None])[..., 0]  # [B, K, N]
        return (SLATE * share[:, None] * weight * integral).mean(1)


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Logistic function that does not overflow."""
    return np.exp(-np.logaddexp(0, -logit))


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def sphere(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """[count, D] unit vectors, uniform on the sphere."""
    return normalise(rng.normal(size=(count, dim)))


def draw_planes(
    rng: np.random.Generator, users: int, interests: int, dim: int, law: str
) -> np.ndarray:
    """[U, K, 2, D] orthonormal pairs (a, b) under a law of drift, "shared" (D even) or "own"."""
    a, b = rng.normal(size=(2, users, interests, dim))
    a = normalise(a)
    if law == "own":
        b = normalise(b - (a * b).sum(-1, keepdims=True) * a)
    else:
        axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        turn = np.kron(np.eye(dim // 2), [[0.0, -1.0], [1.0, 0.0]])
        b = a @ (axes @ turn @ axes.T).T
    return np.stack([a, b], axis=2)


def draw_lives(
    rng: np.random.Generator, count: int, days: float, turnover: float, cold: float
) -> tuple[np.ndarray, np.ndarray]:
    """enter and leave [N] int64 seconds of items.

    Args:
      rng: source of chance.
      count: N.
      days: length of the period.
      turnover: share of the items alive at its start that leave before its end, at most 1; as many
        enter. 0: all are there all the time.
      cold: share of items that enter in its last part, see `late`.
    """
    enter, leave = np.full(count, START), np.full(count, _FOREVER)
    if turnover:
        life = days / turnover
        enter = START + (DAY * rng.uniform(-life, days, count)).astype(np.int64)
        leave = enter + int(DAY * life)
    fresh = late(rng, count, days, cold)
    keeps = leave - enter
    enter = np.where(fresh > 0, START + fresh, enter)
    return enter, np.where(leave == _FOREVER, leave, enter + keeps)


def late(rng: np.random.Generator, count: int, days: float, share: float) -> np.ndarray:
    """[count] int64 seconds after START at which an item or user enters; 0 for those not cold.

    A cold one enters after 86 to 94 % of the period: behind a train part of 80 % of the events, and
    before the end, so that it has events to be tested on.
    """
    moment = (DAY * days * rng.uniform(0.86, 0.94, count)).astype(np.int64)
    return np.where(rng.permutation(count) < round(share * count), moment, 0)


def draw_times(
    rng: np.random.Generator, mean_events: float, days: float, enter: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """User [E] and times [E] int64 of events, sorted, times increasing within a user.

    Each user's events are a Poisson process from `enter` [U] (seconds after START) to the end, of
    equal intensity; nobody has fewer than two.
    """
    left = DAY * days - enter  # seconds
    counts = 2 + rng.poisson(np.maximum(mean_events * left / (DAY * days) - 2, 0))
    user = np.repeat(np.arange(len(enter)), counts)
    # Given their number, the arrivals of a Poisson process are uniform order statistics.
    place = np.sort(user + rng.random(len(user))) - user
    order = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    # One second more for each, so that no two share a second.
    return user, START + enter[user] + (place * left[user]).astype(np.int64) + order
