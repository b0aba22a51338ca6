"""Cross-stage initialisation copies by path and shape, reports the rest, and leaves it alone."""

import flax.traverse_util
import jax
import numpy as np

from nif_jax.models.flow import FlowDecoder
from nif_jax.models.ranker import Ranker
from nif_jax.models.transfer import Rows, copy_by_value, resized, transplant


def filled(value, *shape):
    return np.full(shape, float(value))


def test_transplant_by_hand():
    source = {
        "items": {"id": filled(1, 4, 2), "genre": filled(1, 3, 2)},
        "head": {"kernel": filled(1, 2)},
        "deep": {"a": {"b": filled(1, 2)}},
        "only_source": filled(1, 2),
    }
    target = {
        "items": {"id": filled(0, 4, 2), "genre": filled(0, 5, 2), "brand": filled(0, 2, 2)},
        "head": {"kernel": filled(0, 2, 1)},
        "deep": {"a": {"b": filled(0, 2)}, "c": filled(0, 2)},
        "only_target": filled(0, 2),
    }
    result, copied, skipped = transplant(source, target)
    assert sorted(copied) == ["deep/a/b", "items/id"]
    assert sorted(skipped) == ["head/kernel", "items/genre"]
    assert jax.tree.structure(result) == jax.tree.structure(target)
    flat = flax.traverse_util.flatten_dict(result, sep="/")
    assert sorted(path for path, x in flat.items() if x.all()) == ["deep/a/b", "items/id"]
    assert result["items"]["genre"].shape == (5, 2) and result["head"]["kernel"].shape == (2, 1)
    # Neither argument has changed.
    assert not any(x.any() for x in jax.tree.leaves(target))
    assert all(x.all() for x in jax.tree.leaves(source))


def test_nothing_in_common_changes_nothing():
    target = {"a": {"b": filled(0, 2)}}
    result, copied, skipped = transplant({"b": filled(1, 2), "a": {"c": filled(1, 2)}}, target)
    assert (copied, skipped) == ([], [])
    np.testing.assert_array_equal(result["a"]["b"], target["a"]["b"])


def test_a_generator_starts_from_the_rankers_items_and_context(random_params, random_impressions):
    sizes = {"id": 7, "genre": 4}
    ranker = Ranker(
        item_sizes=sizes,
        user_sizes={"id": 6},
        num_scenes=3,
        num_actions=3,
        dim=8,
        attention=(4,),
        tower=(4,),
        dropout=0.0,
        id_dropout=0.0,
        align_heads=2,
        align_dropout=0.0,
        calibration=4,
    )
    generator = FlowDecoder(
        item_sizes=sizes | {"genre": 5},
        num_scenes=3,
        num_actions=3,
        dim=8,
        heads=2,
        layers=1,
        mlp_ratio=2,
        dropout=0.0,
        id_dropout=0.0,
        context_dropout=0.0,
        flow="heads",
        label_head=4,
    )
    items = {"id": np.ones((10, 1), np.int32), "genre": np.ones((10, 2), np.int32)}
    batch = random_impressions(0, (3, 2), 4)
    source = random_params(0, ranker.init, batch, items)
    target = random_params(1, generator.init, batch.history, items)
    result, copied, skipped = transplant(source, target)
    context = ["context/action", "context/gap", "context/scene"]
    assert sorted(copied) == [*context, "items/id"] and skipped == ["items/genre"]
    jax.tree.map(np.testing.assert_array_equal, result["context"], source["context"])
    np.testing.assert_array_equal(result["items"]["id"], source["items"]["id"])
    np.testing.assert_array_equal(result["items"]["genre"], target["items"]["genre"])
    jax.tree.map(np.testing.assert_array_equal, result["blocks_0"], target["blocks_0"])


def numbered(first, *shape):
    return first + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_rows_are_copied_by_value_by_hand():
    there = {
        "item/id": np.array(["a", "b", "c"], object),
        "item/a/b": np.array(["x"], object),
        "scene": np.array(["s"], object),
    }
    here = {
        "item/id": np.array(["c", "new", "a"], object),
        "item/a/b": np.array(["y", "x"], object),
        "item/extra": np.array(["z"], object),
        "scene": np.array(["s"], object),
    }
    source = {
        "items": {"id": numbered(0, 5, 2), "a%2Fb": numbered(20, 2, 2)},
        "fields": {"scene": numbered(30, 2, 2)},
        "head": {"kernel": numbered(40, 2, 2)},
    }
    target = {
        "items": {"id": filled(-1, 5, 2), "a%2Fb": filled(-2, 3, 2), "extra": filled(-3, 2, 2)},
        "fields": {"scene": filled(-4, 2, 2)},
        "head": {"kernel": filled(-5, 2, 2)},
    }
    shapes = jax.tree.map(np.shape, resized(target, here, there, {}))
    assert shapes == jax.tree.map(np.shape, source)
    found, counts = copy_by_value(source, target, here, there)
    # Rows 0 and 1 (padding, unknown), then c, new, a.
    assert found["items"]["id"][:, 0].tolist() == [0, 2, 8, -1, 4]
    assert found["items"]["a%2Fb"][:, 0].tolist() == [20, -2, 22]
    assert (found["items"]["extra"] == -3).all()
    np.testing.assert_array_equal(found["fields"]["scene"], source["fields"]["scene"])
    np.testing.assert_array_equal(found["head"]["kernel"], source["head"]["kernel"])
    assert counts == {
        "items/id": Rows(copied=2, new=1, dropped=1),
        "items/a%2Fb": Rows(1, 1, 0),
        "items/extra": Rows(0, 1, 0),
        "fields/scene": Rows(1, 0, 0),
    }
    assert (target["items"]["id"] == -1).all()
