"""Items that a model's run has not seen, scored by their features.

The tables of a variant have SPARE_ITEMS rows behind the row of unknown items. New items take these
rows: their features are the given ones, and their own embedding is that of an unknown item.
Letters: N items of the run, K new ones, M values of a feature, D width.
"""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from nif_jax.data.schema import DataError
from nif_jax.data.vocabulary import OOV
from nif_jax.requests import files
from nif_jax.requests.columns import as_text
from nif_jax.requests.objects import RequestError, text_of_value
from nif_jax.requests.vocabulary import Vocabulary
from nif_jax.serving.model import Model
from nif_jax.serving.programs import ITEM_FEATURES, SPARE_ITEMS, replaced_arrays

VECTORS = ("['constants']['generator_item_emb']", "['constants']['tuned_item_emb']")
"""Paths of the generator's item vectors, of which a variant has one, both or none."""
Items = Mapping[str, Mapping[str, Any]]
"""Id -> feature -> a value, or several."""
AnyModel = TypeVar("AnyModel", bound=Model)


def with_items(model: AnyModel, items: Items) -> AnyModel:
    """A model that also scores further items, and reads them in movelines.

    Count features of their values are those of the run's events; those of the items themselves
    start from nothing. Values that the run has not seen are left out. Recommendations are chosen
    from the run's items as before.

    Args:
      model: see nif_jax.load and serving.load; it stays as it is.
      items: id -> feature -> a value or a list of values.

    Raises:
      RequestError: too many items, an id of the run's data, an unknown feature, too many values, or
        a model that has new items already.
    """
    known, tables = len(model.vocabulary.item), model.features.items
    if len(model.vocabulary.added):
        raise RequestError("the model has new items already: give all to the model without them")
    if len(items) > SPARE_ITEMS:
        raise RequestError(f"{len(items):,} new items; a model takes {SPARE_ITEMS:,} at most")
    for item in items:
        if model.vocabulary.place("item", item) >= 0:
            raise RequestError(f"item {item!r} is in the run's data, which has its features")
    spare = _numbers(model.vocabulary, {n: x.shape[1] for n, x in tables.items()}, items)
    rows = {f"{ITEM_FEATURES}['{name}']": numbers for name, numbers in spare.items()}
    if model.programs.embed_items is not None:
        vectors = np.asarray(model.programs.embed_items(model.arrays, spare))
        rows |= {name: vectors for name in VECTORS if name in model.tables}
    changed = {
        name: jnp.asarray(model.tables[name]).at[known + 2 :].set(new) for name, new in rows.items()
    }
    encoder, names = model.encoder, np.array(list(items), object)
    if encoder.statistics is not None:
        given = {name: numbers[: len(items)] for name, numbers in spare.items() if name != "id"}
        every = np.ones(len(items), bool)
        statistics = encoder.statistics.with_items(given, every, known + 2)
        encoder = dataclasses.replace(encoder, statistics=statistics)
    found = copy.copy(model)
    for name in list(vars(found)):
        if isinstance(getattr(type(found), name, None), functools.cached_property):
            del vars(found)[name]
    found.arrays, found.encoder = replaced_arrays(model.arrays, changed), encoder
    found.vocabulary = dataclasses.replace(model.vocabulary, added=names)
    return found


def _numbers(names: Vocabulary, widths: Mapping[str, int], items: Items) -> dict[str, np.ndarray]:
    """[SPARE_ITEMS, M] int32 of each feature, for tables of these widths M."""
    found = {name: np.zeros((SPARE_ITEMS, width), np.int32) for name, width in widths.items()}
    found["id"][:] = OOV
    choices = sorted(names.item_profile)
    for row, (item, features) in enumerate(items.items()):
        for name, given in features.items():
            if name not in choices:
                raise RequestError(f"item {item!r}: {name!r} is no feature; choose from {choices}")
            where, several = f"item {item!r}: {name}", isinstance(given, list | tuple)
            values = [text_of_value(where, one) for one in (given if several else [given])]
            numbers = [1 + names.place(f"item/{name}", value) for value in values]
            known = list(dict.fromkeys(number for number in numbers if number))
            if len(known) > widths[name]:
                raise RequestError(f"{where} has {len(known)} values; {widths[name]} at most")
            found[name][row, : len(known)] = known
    return found


def read(path: pathlib.Path) -> Items:
    """New items of a file of any format of requests: `item_id`, and a column for each feature.

    Raises:
      DataError: a file of another format, no column `item_id`, or a row without an id.
      OSError: it cannot be read.
    """
    table = files.read_scores(path)
    if "item_id" not in table.column_names:
        raise DataError(f"{path} has no column 'item_id': {table.column_names}")
    ids = as_text("item_id", table["item_id"]).to_pylist()
    if None in ids:
        raise DataError(f"{path}: row {ids.index(None)} has no item_id")
    rows = table.drop_columns(["item_id"]).to_pylist()
    return {
        item: {name: value for name, value in row.items() if value is not None}
        for item, row in zip(ids, rows, strict=True)
    }
