"""Features of any name have an embedding of their own."""

import jax
import numpy as np
import pytest

from nif_jax.models.embed import ItemEmbed, UserEmbed, table_name
from nif_jax.models.transfer import transplant

NAMES = ("id", "drop", "%drop", "params", "a/b", "a%2Fb", "a.b", "", "name", "tables", "sizes", "é")


def test_names_of_tables_differ():
    assert len({table_name(name) for name in NAMES}) == len(NAMES)
    assert [table_name(name) for name in ("id", "genres", "a b")] == ["id", "genres", "a b"]


@pytest.mark.parametrize("make", [ItemEmbed, UserEmbed])
def test_features_of_any_name_are_embedded_and_copied(make):
    options = {"id_dropout": 0.5} if make is ItemEmbed else {}
    model = make(dict.fromkeys(NAMES, 4), 3, **options)
    ids = {
        name: np.full((5, 2) if make is ItemEmbed else 5, 2 + k % 2, np.int32)
        for k, name in enumerate(NAMES)
    }
    params = model.init(jax.random.key(0), ids, method="fields")["params"]
    fields = model.apply({"params": params}, ids, method="fields")
    assert len({np.asarray(field).tobytes() for field in fields}) == len(NAMES)
    # Cross-stage initialisation takes parameters by their paths.
    other = model.init(jax.random.key(1), ids, method="fields")["params"]
    copied, names, different = transplant({"items": params}, {"items": other})
    assert len(names) == len(NAMES) and not different
    jax.tree.map(np.testing.assert_array_equal, copied["items"], dict(params))
