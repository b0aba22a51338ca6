"""A finished run's variant, which scores requests."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

from nif_jax.inference.batching import pieces
from nif_jax.inference.functions import Functions
from nif_jax.metrics.calibration import Calibration
from nif_jax.requests.encode import Encoded, Encoder
from nif_jax.requests.numbered import Numbered, number
from nif_jax.requests.objects import RequestError, Requests, as_table
from nif_jax.requests.vocabulary import Vocabulary
from nif_jax.stages.context import Context


class Scores(NamedTuple):
    """Of R candidates, in the order of the requests and of their items.

    Attributes:
      logit: [R] float32 calibrated log odds that the label is 1.
      request: [R] int64 number of the request of each candidate, from 0.
    """

    logit: np.ndarray
    request: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """[R] float32 in 0..1."""
        return expit(self.logit)

    def by_request(self, requests: int) -> list[np.ndarray]:
        """The probabilities of each of a number of requests."""
        return np.split(self.probability, np.searchsorted(self.request, range(1, requests)))


class Model:
    """A variant of a finished run; see nif_jax.load.

    Attributes:
      run: the finished run.
      variant: its name.
      functions: pure functions, and `arrays`, their first argument.
      vocabulary: names of users, items, scenes, actions and of features of users.
      encoder: from numbered requests to arrays.
      calibration: of the logits.
    """

    def __init__(
        self,
        *,
        run: Context,
        variant: str,
        functions: Functions,
        arrays: Mapping[str, Any],
        vocabulary: Vocabulary,
        encoder: Encoder,
        calibration: Calibration,
    ):
        """See nif_jax.load."""
        self.run = run
        self.variant, self.functions, self.arrays = variant, functions, arrays
        self.vocabulary, self.encoder, self.calibration = vocabulary, encoder, calibration
        self._score = jax.jit(functions.score)
        self._flows = jax.jit(functions.flows)

    def number(self, requests: Requests, candidates: bool = True) -> Numbered:
        """Requests as numbers; raises RequestError for the first that cannot be scored.

        Args:
          requests: objects, mappings, or a table; see requests.objects.as_table.
          candidates: whether each has to have items.
        """
        found, reasons = number(as_table(requests), self.vocabulary, self.base, candidates)
        bad = np.flatnonzero(~np.equal(reasons, None))
        if len(bad):
            raise RequestError(f"request {bad[0]}: {reasons[bad[0]]}")
        return found

    @property
    def base(self) -> int:
        """Second of the first event of the run's data."""
        return self.encoder.log.base

    def score(self, requests: Requests) -> Scores:
        """The click probabilities of the items of requests.

        Args:
          requests: one Request, several, mappings of the same fields, or a pyarrow.Table.

        Raises:
          RequestError: a request that cannot be scored; names it and the reason.
          DataError: a table with a column that is missing, unknown or of a wrong type.
        """
        numbered = self.number(requests)
        return Scores(self.logits(self.encoder.encode(numbered)), numbered.candidate_row)

    def logits(self, encoded: Encoded) -> np.ndarray:
        """[R] float32 calibrated logits."""
        # Every call is on its way before the first result is read back.
        found = [(self._score(self.arrays, *piece), size) for piece, size in pieces(encoded)]
        parts = [np.asarray(logit)[:size] for logit, size in found]
        raw = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return self.calibration(raw)
