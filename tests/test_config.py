"""Which keys of a config shape a stage, and that it cannot read others."""

import pytest

from configs import hybrid
from nif_jax.config import flatten, stage_config, stage_settings


def _seen(stage):
    flat = flatten(hybrid.get_config("synthetic").to_dict())
    return set(stage_settings(stage, flat)), set(flat)


class TestSeenBy:
    def test_a_row_sees_all_but_what_comes_before_and_after(self):
        seen, every = _seen("hybrid")
        hidden = every - seen
        assert {"rows", "seed", "num_seeds"} < hidden
        hidden -= {"rows", "seed", "num_seeds", "parallel"}
        assert all(key.startswith(("ab.", "daily.", "mesh.")) for key in hidden)

    def test_a_row_does_not_see_sections_of_parts_that_it_lacks(self):
        flow, pairs, cohorts = (
            {"flow.generator_item_emb", "pretrain.context"},
            {"tsp.weight"},
            {"genci.beams", "content.dim", "eval.beams"},
        )
        for row, seen, hidden in (
            ("nif", flow, pairs | cohorts),
            ("tsp", pairs, flow | cohorts),
            ("genci", cohorts, flow | pairs),
            ("din", {"baselines.prior", "train.epochs"}, flow | pairs | cohorts),
        ):
            found = _seen(row)[0]
            assert seen <= found and not hidden & found

    def test_a_later_stage_sees_what_the_one_before_it_saw(self):
        base, generator, fold = (
            _seen(stage)[0] for stage in ("base", "generator", "generator_without_1_of_2")
        )
        assert base < generator == fold
        assert {"data.seed", "source.drift", "ranker.dim", "train.epochs"} <= base
        assert {"flow.horizon", "pretrain.init"} <= generator - base
        assert not {"flow.cross_fit", "tsp.weight", "data"} & generator

    def test_a_name_is_not_the_start_of_another(self):
        # "tokenize" and "train" are sections, not the first letters of keys.
        flat = {"train.epochs": 1, "trained": 2, "train_share": 3, "ranker": 4}
        assert stage_settings("base", flat) == {"train.epochs": 1, "ranker": 4}


class TestRestrict:
    def test_reading_a_key_that_is_not_seen_is_an_error(self):
        config = hybrid.get_config("synthetic").lock()
        base = stage_config(config, "base")
        assert base.ranker.dim == config.ranker.dim and base.is_locked
        for read in (lambda: base.tsp.weight, lambda: base["rows"], lambda: base.eval.resamples):
            with pytest.raises((AttributeError, KeyError)):
                read()
        assert config.tsp.weight and config.rows  # the whole one is as it was
        assert flatten(base.to_dict()) == stage_settings("base", flatten(config.to_dict()))

    def test_what_hides_nothing_is_the_config_itself(self):
        base = stage_config(hybrid.get_config("synthetic"), "base")
        assert stage_config(base, "base") is base
