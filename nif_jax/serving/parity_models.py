"""The first part in which two models differ, in the order of the computation of a score.

Settings and vocabularies, then the run's data, parameters, count features and calibration, then
features of requests, flow, logits and probabilities. The comparison ends with the first of these
parts that differs: later ones follow from it. Letters: G requests, R candidates.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import expit

from nif_jax.requests.encode import Encoded
from nif_jax.requests.log import lay_out
from nif_jax.requests.numbered import Numbered
from nif_jax.serving.model import Model
from nif_jax.serving.parity_columns import TOLERANCE
from nif_jax.serving.parity_parts import PARTS, of_array
from nif_jax.serving.parity_tables import Difference, of_columns


class Report(NamedTuple):
    """Of two models.

    Attributes:
      equal: names of the parts that are equal.
      part: the first part that differs; "" if none does.
      differences: of that part.
    """

    equal: list[str]
    part: str
    differences: list[Difference]


def of_models(left: Model, right: Model, number: Callable[[Model], Numbered]) -> Report:
    """Compares two models part by part.

    Args:
      left: of a run or of an artefact; right likewise.
      number: gives the same requests with candidates for each model.
    """
    equal: list[str] = []
    own = ((name, part(left, right)) for name, part in PARTS.items())
    for name, found in itertools.chain(own, _of_requests(left, right, number)):
        differences = list(found)
        if differences:
            return Report(equal, name, differences)
        equal.append(name)
    return Report(equal, "", [])


class _Side(NamedTuple):
    """A model and requests: [R] rows of features and keys, and the requests as arrays."""

    model: Model
    requests: Numbered
    table: pa.Table
    encoded: Encoded

    def flow(self) -> np.ndarray:
        """[G, T, D] of the requests that have a history."""
        lines = lay_out(self.model.encoder.log, self.requests)
        return self.model.flows_of(lines)[lines.end > lines.begin]

    def raw(self) -> np.ndarray:
        """[R] logits before calibration."""
        return self.model.raw_logits(self.encoded)


def _side(model: Model, requests: Numbered) -> _Side:
    table, encoded = model.features.table(requests)
    owner = requests.owner
    users = np.append(model.vocabulary.user, np.array([None]))[requests.user[owner]]
    table = table.append_column("user_id", pa.array(users, pa.string()))
    table = table.append_column("item_id", requests.candidate)
    table = table.append_column("timestamp", pa.array(requests.time[owner]))
    return _Side(model, requests, table, encoded)


def _of_requests(
    left: Model, right: Model, number: Callable[[Model], Numbered]
) -> Iterator[tuple[str, list[Difference]]]:
    """(part, differences) of what models compute for requests."""
    sides = [_side(model, number(model)) for model in (left, right)]
    names = right.features.schema().names
    yield "features", of_columns(sides[0].table, sides[1].table, names)
    if left.programs.flows is not None and right.programs.flows is not None:
        entries = sides[0].encoded.entries
        request = np.flatnonzero(entries).tolist()
        flows = sides[0].flow(), sides[1].flow()
        yield "flow", list(of_array("flow", flows, lambda n: f"request {request[n]}", TOLERANCE))
    of_scores = functools.partial(_of_scores, sides)
    raw = [side.raw() for side in sides]
    yield "logits", of_scores("uncalibrated", raw)
    logit = [side.model.calibration(x) for side, x in zip(sides, raw, strict=True)]
    found = of_scores("logit", logit) or of_scores("probability", [expit(x) for x in logit])
    yield "probabilities", found


def _of_scores(sides: list[_Side], name: str, values: list[np.ndarray]) -> list[Difference]:
    """Of [R] scores of each side, next to the keys of their rows."""
    tables = [
        side.table.append_column(name, pa.array(value))
        for side, value in zip(sides, values, strict=True)
    ]
    return of_columns(tables[0], tables[1], [name])
