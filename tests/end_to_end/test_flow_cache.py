"""The cache of flows: its numbers, its bytes, and where it is kept."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import nif
from nif_jax.experiment import start
from nif_jax.stages import finetune, flow_cache, generator, ranking
from tests.end_to_end.runs import TINY_NIF, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> run, generator outputs, and scores on validation of equal parameters."""
    folder = tmp_path_factory.mktemp("runs")
    choices = {
        "plain": "",
        "short": ",flow.cache_dtype=bfloat16",
        "mapped": ",flow.cache_bytes=0",
        "both": ",flow.cache_dtype=bfloat16,flow.cache_bytes=0",
    }
    made, params = {}, None
    for name, text in choices.items():
        run = make_run(folder / name, TINY_NIF + text)
        if params is None:
            params, _ = start.initial_state(run, generator.make(run))
        outputs = flow_cache.generator_outputs(run, params)
        stage = finetune.make(run, "nif_labels", outputs)
        state = run.parallel.replicate(start.initial_state(run, stage))
        scores = stage.scorers["scores"](ranking.validation_plan(run), *state)
        made[name] = run, outputs, stage, scores
    return made


@pytest.mark.parametrize("name", ["short", "both"])
def test_short_numbers_are_the_rounded_ones_in_half_the_bytes(made, name):
    _, plain, _, expected = made["plain"]
    _, short, _, scores = made[name]
    for one, other in ((plain.flow, short.flow), (plain.past, short.past)):
        assert one.dtype == np.float32 and other.dtype == jnp.bfloat16
        np.testing.assert_array_equal(other, one.astype(jnp.bfloat16))
        assert 2 * other.nbytes == one.nbytes
    for key in expected:
        assert scores[key].dtype == np.float32
        np.testing.assert_allclose(scores[key], expected[key], atol=1e-2)
    assert np.any(scores["label_head"] != expected["label_head"])


def test_a_mapped_cache_is_read_on_the_host_and_scores_the_same(made):
    for mapped, memory in (("mapped", "plain"), ("both", "short")):
        run, outputs, stage, scores = made[mapped]
        _, kept, other, expected = made[memory]
        assert isinstance(outputs.flow, np.memmap) and isinstance(outputs.past, np.memmap)
        assert not isinstance(kept.flow, np.memmap)
        assert not stage.data.on_device and other.data.on_device
        np.testing.assert_array_equal(outputs.flow, kept.flow)
        np.testing.assert_array_equal(outputs.past, kept.past)
        for key in expected:
            np.testing.assert_allclose(scores[key], expected[key], atol=1e-5)
        assert not [path for path in run.folder.iterdir() if path.stat().st_size > 10_000]


def test_default_widths_take_less_than_400_bytes_an_event_in_bfloat16():
    config = nif.get_config("synthetic,flow.cache_dtype=bfloat16")
    numbers = (config.flow.horizon + 2) * config.generator.dim
    assert numbers * jnp.dtype(config.flow.cache_dtype).itemsize <= 400
