"""A variant that scores requests: of a finished run, or of an artefact."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from scipy.special import expit

from nif_jax.data.schema import ConfigError
from nif_jax.metrics.calibration import Calibration
from nif_jax.requests.encode import Encoded, Encoder, generator_windows
from nif_jax.requests.features import Features
from nif_jax.requests.log import Lines, lay_out
from nif_jax.requests.numbered import Numbered, number
from nif_jax.requests.objects import (
    Event,
    Request,
    RequestError,
    Requests,
    as_moveline_table,
    as_table,
)
from nif_jax.requests.vocabulary import Vocabulary
from nif_jax.serving.batching import in_sizes, pieces
from nif_jax.serving.programs import Programs, item_features, named_arrays
from nif_jax.serving.recommend import Recommended, Recommender, shortlist_of
from nif_jax.serving.state import StateFunctions, UserState


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
    """A variant; see nif_jax.load and serving.load.

    Attributes:
      variant: its name.
      programs: compiled functions, and `arrays`, their first argument.
      vocabulary: names of users, items, scenes, actions and of features of users.
      encoder: from numbered requests to arrays.
      calibration: of the logits.
    """

    def __init__(
        self,
        *,
        variant: str,
        programs: Programs,
        arrays: Any,
        vocabulary: Vocabulary,
        encoder: Encoder,
        calibration: Calibration,
    ):
        """Takes the parts of a variant."""
        self.variant, self.programs, self.arrays = variant, programs, arrays
        self.vocabulary, self.encoder, self.calibration = vocabulary, encoder, calibration

    @functools.cached_property
    def tables(self) -> dict[str, Any]:
        """Path -> array, see named_arrays."""
        return named_arrays(self.arrays)

    @functools.cached_property
    def features(self) -> Features:
        """Writes requests as a table of named features."""
        return Features(self.vocabulary, self.encoder, item_features(self.tables))

    @property
    def base(self) -> int:
        """Second of the first event of the run's data."""
        return self.encoder.log.base

    def number(self, requests: Requests, candidates: bool = True) -> Numbered:
        """Requests as numbers; raises RequestError for the first that cannot be scored.

        Args:
          requests: objects, mappings, or a table; see requests.objects.as_table.
          candidates: whether each has to have items.
        """
        return self.number_table("request", as_table(requests), candidates)

    def number_table(self, kind: str, table: pa.Table, candidates: bool) -> Numbered:
        """See `number`; `kind` is what a row is called."""
        found, bad = number(table, self.vocabulary, self.base, candidates)
        if bad:
            row, reason = bad[0]
            raise RequestError(f"{kind} {row}: {reason}")
        return found

    def score(self, requests: Requests, state: UserState | None = None) -> Scores:
        """The click probabilities of the items of requests.

        Args:
          requests: one Request, several, mappings of the same fields, or a pyarrow.Table.
          state: the user of all of them, whose moveline they see; theirs are not read then.

        Raises:
          RequestError: a request that cannot be scored; names it and the reason.
          DataError: a table with a column that is missing, unknown or of a wrong type.
        """
        numbered = self.number(requests)
        logit = self.calibration(self.uncalibrated(numbered, state))
        return Scores(logit, numbered.candidate_row)

    def uncalibrated(self, numbered: Numbered, state: UserState | None = None) -> np.ndarray:
        """[R] float32 logits of `score` before calibration."""
        if state is None:
            return self.raw_logits(self.encoder.encode(numbered))
        return self._of_state.logits(state, numbered)

    def logits(self, encoded: Encoded) -> np.ndarray:
        """[R] float32 calibrated logits."""
        return self.calibration(self.raw_logits(encoded))

    def raw_logits(self, encoded: Encoded) -> np.ndarray:
        """[R] float32 logits before calibration."""
        score = self.programs.score  # every call is on its way before the first result is read
        found = [(score(self.arrays, *piece), size) for piece, size in pieces(encoded)]
        return np.concatenate([np.zeros(0, np.float32), *(np.asarray(x)[:n] for x, n in found)])

    def flow(self, movelines: Iterable[Sequence[Event]] | UserState) -> np.ndarray:
        """[G, T, D] Next Interest Flow after the last event of each moveline; [T, D] of a state.

        Unit vectors, nearest to those of the items that are likely to come next.

        Raises:
          ConfigError: the variant has no flow.
          RequestError: an event that cannot be read, or a moveline without events.
        """
        self.require_flow()
        if isinstance(movelines, UserState):
            return self._of_state.flow(movelines)
        numbered = self.number_table("moveline", as_moveline_table(movelines), False)
        return self.flows_of(lay_out(self.encoder.log, numbered))

    def flows_of(self, lines: Lines) -> np.ndarray:
        """[G, T, D] flow of movelines; of no meaning after one without history."""
        self.require_flow()
        assert self.programs.flows is not None
        encoder, entries = self.encoder, lines.end - lines.begin
        windows = generator_windows(lines, encoder.context, encoder.chunked, False)
        found = [
            (self.programs.flows(self.arrays, *piece)[0], size)
            for piece, size in in_sizes((windows, entries))
        ]
        return np.concatenate([np.asarray(flow)[:size] for flow, size in found])

    @functools.cached_property
    def item_vectors(self) -> jax.Array:
        """[I, D] the generator's unit vectors; row N + 1 is that of an unknown item."""
        self.require_flow()
        assert self.programs.item_vectors is not None
        return self.programs.item_vectors(self.arrays)

    @functools.cached_property
    def recommender(self) -> Recommender:
        """Chooses from the catalogue."""
        return Recommender(self)

    def require_flow(self) -> None:
        """Raises ConfigError for a variant without flow."""
        if self.programs.flows is None:
            raise ConfigError(
                f"variant {self.variant!r} has no flow; load one that has, such as nif or amen."
            )

    @functools.cached_property
    def _of_state(self) -> StateFunctions:
        return StateFunctions(self.programs, self.arrays, self.encoder)

    def new_state(
        self,
        user_id: str | None = None,
        profile: Mapping[str, str] | None = None,
        moveline: Iterable[Event] = (),
    ) -> UserState:
        """The state of a user, as plain arrays.

        Args:
          user_id: whose features of the run's data are read; the run's events of it are not.
          profile: user feature -> value, in place of what the run's data has.
          moveline: the events so far, each of which costs an `update`.
        """
        table = as_table(
            Request(self.base, self.vocabulary.scene[0], (), user_id, (), None, profile or {})
        )
        numbered, _ = number(table, self.vocabulary, self.base, candidates=False)
        state = self._of_state.new(self.encoder.users(numbered))
        for event in moveline:
            state = self.update(state, event)
        return state

    def update(self, state: UserState, event: Event) -> UserState:
        """The state after one more event, in a time that does not depend on how many came before.

        Args:
          state: before it. Its arrays are reused: go on with the returned state.
          event: not earlier than the last one.

        Raises:
          RequestError: an event that cannot be read.
        """
        return self._of_state.update(state, event, self.vocabulary)

    def recommend(
        self,
        requests: Requests,
        k: int,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
        shortlist: int = 0,
    ) -> list[Recommended]:
        """The k best items of each request, see recommend.Recommender.

        Args:
          requests: without items.
          k: items for each; fewer where there are no more.
          exclude_seen: whether items of the moveline are left out.
          candidates: ids to choose from; None = the catalogue.
          shortlist: items that the ranker orders; 0 = the larger of 100 and 2 k.

        Raises:
          RequestError: a request that cannot be read, or an unknown candidate.
          DataError: a table with a column that cannot be used.
        """
        numbered = self.number(requests, candidates=False)
        shortlist = shortlist or shortlist_of(k)
        chosen = self.recommender if candidates is None else Recommender(self, candidates)
        return chosen.recommend(numbered, k, exclude_seen, shortlist)
