"""Sections of the modes of nif_jax.main beside training: --mode=ab and --mode=daily."""

from ml_collections import ConfigDict


def add_modes(config: ConfigDict, smoke: bool) -> None:
    """The sections `ab` and `daily`."""
    _ab(config, smoke)
    _daily(config)


def _ab(config: ConfigDict, smoke: bool) -> None:
    """The A/B test of --mode=ab, on data whose law is known; may change after training."""
    config.ab = ConfigDict()
    # The variant that all others are compared with; "" = the first of config.rows.
    config.ab.reference = ""
    # Candidates that a model ranks for an impression, and impressions of each user.
    config.ab.slate = 20
    config.ab.impressions = 5 if smoke else 20
    # Resamples of users behind an interval.
    config.ab.resamples = 2000
    # Seed of traffic, clicks and resamples.
    config.ab.seed = 0


def _daily(config: ConfigDict) -> None:
    """Prediction and training day by day, --mode=daily (docs/daily.md)."""
    config.daily = ConfigDict()
    # Days with impressions that the first model is trained on; all later ones are predicted.
    config.daily.first_days = 1
    # Days that an update trains on, the newest included: 1 = the new day alone.
    config.daily.replay_days = 1
    # Epochs, warm-up and min_steps, and learning rate, of an update: shares of those in the
    # sections train and pretrain.
    config.daily.epochs_share = 0.25
    config.daily.learning_rate_share = 0.5
