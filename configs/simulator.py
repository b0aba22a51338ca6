"""The section `source` of simulated data."""

from ml_collections import ConfigDict


def add_world(config: ConfigDict, smoke: bool) -> None:
    """The knobs of the simulated world; nif_jax/data/simulator.py has its law."""
    config.source.num_users = 200 if smoke else 1000
    config.source.num_items = 200 if smoke else 500
    # Mean events of a user, over a period of `days`.
    config.source.events_per_user = 24.0 if smoke else 100.0
    config.source.days = 50.0
    # D of the sphere, and interests of a user on it.
    config.source.dim = 4
    config.source.interests = 2
    # Where interests drift to: "shared", one current for all, or "own", each its own way; and how
    # fast, in radians a day (0 = static).
    config.source.law = "shared"
    config.source.drift = 0.2
    # How far clicks are from deterministic, in units of cosine.
    config.source.noise = 0.1
    # Scenes, and how far each shifts an interest.
    config.source.scenes = 3
    config.source.scene_pull = 0.3
    # Slates are drawn with odds rank^-popularity, and shown by exp(eagerness x cosine).
    config.source.popularity = 0.8
    config.source.eagerness = 3.0
    # Share of events whose log odds of a click are positive.
    config.source.click_rate = 0.35
    # Share of the catalogue that is replaced during the period; share of items and of users that
    # enter after the train part of an 80/10/10 split by time.
    config.source.turnover = 0.0
    config.source.cold_items = 0.0
    config.source.cold_users = 0.0
