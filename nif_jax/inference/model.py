"""A variant of a finished run, with what an artefact does not have: the run, and explanations."""

from collections.abc import Mapping
from typing import Any

from nif_jax.inference.explain import Explanation, explain
from nif_jax.inference.functions import Functions
from nif_jax.requests.objects import Request
from nif_jax.serving.model import Model
from nif_jax.stages.context import Context


class RunModel(Model):
    """See nif_jax.load.

    Attributes:
      run: the finished run.
      functions: pure functions of its stages, which `programs` compiles.
    """

    def __init__(self, *, run: Context, functions: Functions, **parts: Any):
        """Takes `parts` as Model does."""
        super().__init__(**parts)
        self.run, self.functions = run, functions

    def explain(self, request: Request | Mapping[str, Any]) -> Explanation:
        """What the scores of one request were made of.

        Raises:
          RequestError: a request that cannot be scored.
        """
        return explain(self, self.number([request]))
