"""Parameters from shapes are what lazy_init makes, bit for bit."""

import jax
import numpy as np

from nif_jax.models.flow import FlowDecoder
from nif_jax.models.initialize import init_params


def test_the_same_bits_as_lazy_init(random_window):
    model = FlowDecoder(
        item_sizes={"id": 7},
        num_scenes=3,
        num_actions=3,
        dim=8,
        heads=2,
        layers=2,
        mlp_ratio=2,
        dropout=0.1,
        id_dropout=0.1,
        context_dropout=0.1,
        flow="heads",
        label_head=4,
    )
    items = {"id": np.arange(7, dtype=np.int32)[:, None]}
    inputs = jax.eval_shape(lambda: (random_window(0, (3, 2), 4, items=6), items))
    key = jax.random.key(3)
    expected = model.lazy_init(key, *inputs)["params"]
    jax.tree.map(np.testing.assert_array_equal, init_params(model, key, *inputs), expected)
