"""The simulated world: its law against the equations, against sampling, and each knob's doing."""

import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from nif_jax.data import simulator
from nif_jax.data.schema import DataError
from nif_jax.data.simulator import DAY, START
from nif_jax.data.sources.synthetic import simulate
from nif_jax.metrics import ctr

SMALL = {"num_users": 200, "num_items": 60, "events_per_user": 40.0}


def train_part(found):
    """[E] bool, the first 80 % of the events by time."""
    return found.time < np.quantile(found.time, 0.8)


class TestLaw:
    @pytest.mark.parametrize("law", ["shared", "own"])
    def test_logit_recomputed_from_the_equations(self, law):
        found = simulate(num_users=30, law=law, noise=0.5, scene_pull=0.4, seed=1)
        world, affinity = found.world, []
        for user, item, scene, time in zip(
            found.user[:200], found.item, found.scene, found.time, strict=False
        ):
            angle = 0.2 * (time - START) / DAY
            a, b = world.planes[user, :, 0], world.planes[user, :, 1]
            u = np.cos(angle) * a + np.sin(angle) * b + 0.4 * world.scene_vectors[scene]
            u /= np.linalg.norm(u, axis=1, keepdims=True)
            affinity.append((u @ world.item_vectors[item]).max())
        expected = (np.array(affinity) - world.threshold) / 0.5
        np.testing.assert_allclose(found.logit[:200], expected, atol=1e-9)

    @pytest.mark.parametrize("law", ["shared", "own"])
    def test_planes_are_orthonormal(self, law):
        planes = simulator.draw_planes(np.random.default_rng(0), 20, 3, 6, law)
        gram = np.einsum("ukid,ukjd->ukij", planes, planes)
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-12)

    def test_the_shared_law_moves_all_points_by_one_rotation(self):
        world = simulate(num_users=50, drift=0.3).world
        everyone = np.arange(50)
        begin, later = (
            world.unpulled(everyone, np.full(50, START + days * DAY)).reshape(-1, 4)
            for days in (0, 7)
        )
        rotation = np.linalg.lstsq(begin, later, rcond=None)[0]
        np.testing.assert_allclose(begin @ rotation, later, atol=1e-9)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-9)
        # Each point by the angle drift x time.
        np.testing.assert_allclose((begin * later).sum(1), np.cos(0.3 * 7), atol=1e-9)

    def test_without_drift_interests_stay(self):
        world = simulate(drift=0.0, **SMALL).world
        user, scene = np.arange(200), np.zeros(200, int)
        begin, end = (world.interests(user, scene, np.full(200, START + d * DAY)) for d in (0, 50))
        np.testing.assert_array_equal(begin, end)

    def test_next_item_law_equals_enumeration_of_all_slates(self, monkeypatch):
        monkeypatch.setattr(simulator, "SLATE", 3)
        world = simulate(num_users=3, num_items=5, eagerness=4.0, seed=2).world
        at = np.array([0, 1]), np.array([0, 2]), np.array([START, START + 9 * DAY])
        share = world.popularity / world.popularity.sum()
        expected = np.zeros((2, 5))
        odds = np.exp(4.0 * world.interests(*at) @ world.item_vectors.T)  # [B, K, N]
        for slate in itertools.product(range(5), repeat=3):
            chosen = odds[:, :, slate]
            pick = (chosen / chosen.sum(-1, keepdims=True)).mean(1)
            for place, item in enumerate(slate):
                expected[:, item] += share[list(slate)].prod() * pick[:, place]
        np.testing.assert_allclose(world.next_item(*at), expected, atol=1e-6)

    def test_next_item_law_equals_the_frequency_of_what_is_shown(self):
        # One user at one moment, shown items many times.
        found = simulate(
            num_users=2000,
            num_items=30,
            events_per_user=20.0,
            drift=0.0,
            interests=1,
            scenes=1,
            turnover=0.5,
            seed=4,
        )
        world = found.world
        rows = (found.time > START + 20 * DAY) & (found.time < START + 21 * DAY)
        law = world.next_item(found.user[rows], found.scene[rows], found.time[rows])
        np.testing.assert_allclose(law.sum(1), 1.0, atol=1e-6)
        expected, seen = law.sum(0), np.bincount(found.item[rows], minlength=30)
        error = np.sqrt((law * (1 - law)).sum(0))
        assert (np.abs(seen - expected) < 4 * error + 1e-9).all()
        assert (expected == 0).any() and expected.max() > 20  # the dead are never shown

    def test_no_item_alive_is_an_error(self):
        world = simulate(num_users=2, num_items=4).world
        world = dataclasses.replace(world, leave=np.full(4, START + DAY))
        rng = np.random.default_rng(0)
        with pytest.raises(DataError, match=r"no item is alive on day 3\.0"):
            world.draw_slates(rng, np.array([START, START + 3 * DAY]), 2)


class TestBounds:
    def test_click_rates_follow_the_stated_probability(self):
        found = simulate(num_users=400, seed=3)
        order = np.argsort(found.probability)
        for rows in np.array_split(order, 10):
            p = found.probability[rows]
            error = np.sqrt((p * (1 - p)).sum()) / len(rows)
            assert abs(found.label[rows].mean() - p.mean()) < 4 * error

    def test_bayes_metrics_in_expectation(self):
        found = simulate(num_users=60, seed=5)
        p, rng = found.probability, np.random.default_rng(0)
        draws = (rng.random((300, len(p))) < p).astype(int)
        # Mean entropy of the labels is what the truth loses.
        entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean()
        losses = [ctr.log_loss(labels, found.logit) for labels in draws]
        assert np.mean(losses) == pytest.approx(entropy, abs=4 * np.std(losses) / 300**0.5)
        assert ctr.log_loss(draws[0], found.logit) == pytest.approx(log_loss(draws[0], p))
        # P(a positive outranks a negative) from p alone, against the draws.
        ranked = np.sort(p)
        below = np.cumsum(1 - ranked) - (1 - ranked)
        pairs = p.sum() * (1 - p).sum() - (p * (1 - p)).sum()
        expected = (ranked * below).sum() / pairs
        scores = [ctr.auc(labels, p) for labels in draws]
        assert np.mean(scores) == pytest.approx(expected, abs=4 * np.std(scores) / 300**0.5)

    def test_no_other_score_beats_the_truth(self):
        found = simulate(num_users=200, seed=6)
        noisy = found.logit + np.random.default_rng(0).normal(0, 0.5, len(found.logit))
        assert roc_auc_score(found.label, found.logit) > roc_auc_score(found.label, noisy)
        assert ctr.log_loss(found.label, found.logit) < ctr.log_loss(found.label, noisy)


class TestKnobs:
    def test_less_noise_raises_the_best_auc(self):
        sharp, vague = (simulate(noise=n, **SMALL) for n in (0.02, 1.0))
        assert roc_auc_score(sharp.label, sharp.probability) > 0.95
        assert roc_auc_score(vague.label, vague.probability) < 0.7

    def test_click_rate(self):
        for rate in (0.2, 0.6):
            assert (simulate(click_rate=rate, **SMALL).logit > 0).mean() == pytest.approx(
                rate, abs=0.01
            )

    def test_popularity_decides_what_is_shown(self):
        flat, steep = (
            np.bincount(simulate(popularity=x, eagerness=0.0, **SMALL).item, minlength=60)
            for x in (0.0, 1.5)
        )
        assert flat.max() < 3 * flat.mean() < 10 * steep.mean() < steep.max()

    def test_eagerness_suits_interests(self):
        means = [
            (f.world.affinity(f.user, f.scene, f.time, f.item)).mean()
            for f in (simulate(eagerness=e, **SMALL) for e in (0.0, 3.0, 9.0))
        ]
        assert means[0] + 0.1 < means[1] < means[2] - 0.1

    def test_scene_pull_shifts_interests_of_all_towards_the_scene(self):
        def towards(pull):
            world = simulate(scene_pull=pull, scenes=1, **SMALL).world
            user, zero = np.arange(200), np.zeros(200, int)
            return (world.interests(user, zero, zero + START) @ world.scene_vectors[0]).mean()

        assert abs(towards(0.0)) < 0.1 < towards(1.0)

    def test_period_and_number_of_events(self):
        found = simulate(num_users=300, events_per_user=30.0, days=20.0)
        assert len(found.user) / 300 == pytest.approx(30, rel=0.03)
        days = (found.time - START) / DAY
        assert days.min() > 0 and days.max() < 20.1
        # Events are spread evenly, and times of a user rise.
        np.testing.assert_allclose(np.histogram(days, 4, (0, 20))[0] / len(days), 0.25, atol=0.02)
        assert (np.diff(found.time)[np.diff(found.user) == 0] > 0).all()

    def test_turnover_replaces_that_share_of_the_catalogue(self):
        found = simulate(num_users=300, num_items=2000, turnover=0.4, seed=1)
        world, end = found.world, START + 50 * DAY
        there = (world.enter <= START) & (world.leave > START)
        assert (world.leave[there] <= end).mean() == pytest.approx(0.4, abs=0.05)
        counts = world.alive_counts(np.linspace(START, end, 9))
        np.testing.assert_allclose(counts, counts.mean(), rtol=0.1)  # as many enter as leave
        alive = (world.enter[found.item] <= found.time) & (found.time < world.leave[found.item])
        assert alive.all()

    @pytest.mark.parametrize("share", [0.1, 0.4])
    def test_cold_shares_have_no_train_event(self, share):
        found = simulate(cold_items=share, cold_users=share, num_users=500, num_items=100)
        train = train_part(found)
        for ids, count in ((found.user, 500), (found.item, 100)):
            missing = count - len(np.unique(ids[train]))
            assert missing == round(share * count)
            assert len(np.unique(ids)) == count  # and they come

    def test_the_seed_decides_everything(self):
        one, same, other = (simulate(seed=s, **SMALL) for s in (1, 1, 2))
        np.testing.assert_array_equal(one.item, same.item)
        np.testing.assert_array_equal(one.label, same.label)
        assert not np.array_equal(one.world.planes, other.world.planes)
