"""Requests as objects and tables."""

import numpy as np
import pytest

from nif_jax.requests import numbered
from nif_jax.requests.objects import RequestError, as_table, rows_as_table
from nif_jax.requests.vocabulary import Vocabulary

ROW = {"timestamp": 20, "scene": "home", "user_id": "7", "items": ["a"]}


def names(*values):
    return np.array(values, object)


@pytest.fixture
def vocabulary():
    """Of a run whose users have features called as fields of requests are."""
    return Vocabulary(
        user=names("7"),
        item=names("a"),
        scene=names("home", "search"),
        action=names("click"),
        profile={"scene": names("left", "right"), "age": names("young", "old")},
        item_profile={},
        action_label=np.zeros(2, np.int8),
    )


def test_a_field_is_no_feature_of_its_name(vocabulary):
    table, bad = rows_as_table([ROW | {"age": "old"}], vocabulary.profile)
    found, wrong = numbered.number(table, vocabulary, base=0)
    assert not bad and not wrong
    assert found.scene.tolist() == [1]
    assert {name: values.tolist() for name, values in found.profile.items()} == {"age": [2]}


def test_a_feature_with_the_name_of_a_field_cannot_be_given():
    with pytest.raises(RequestError, match=r"request 0: profile 'scene' is the name of a field"):
        as_table(ROW | {"profile": {"scene": "left"}})
