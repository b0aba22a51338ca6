"""What every stage of a pipeline is: pure functions that the one loop can run, and their data."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from nif_jax.data.table_rows import Lookup
from nif_jax.metrics.calibration import Calibration
from nif_jax.training import checkpoint_meta
from nif_jax.training.devices.placed import Placed
from nif_jax.training.programs import Programs
from nif_jax.training.scoring import Scorer, ScoringPlan

Tree = Any


class Aux(NamedTuple):
    """What a loss returns beside its sum.

    Attributes:
      weight: [] what the sum is to be divided by, over all devices.
      variables: the stage's variables after this batch.
      measurements: name -> (sum, weight); the loop adds both up and divides.
    """

    weight: jax.Array
    variables: Tree
    measurements: Mapping[str, tuple[jax.Array, jax.Array]]


class Evaluation(NamedTuple):
    """What a stage measures on validation.

    Attributes:
      metrics: name -> number; the stage is selected by one of them.
      chosen: variable -> value that validation chose for it, such as the weight of a mean. The
        checkpoint of the best step holds it in place of the trained variable.
    """

    metrics: Mapping[str, Any]
    chosen: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Section `train` of a config, one a stage.

    Attributes:
      epochs: passes over the plan at most.
      eval_epochs: epochs between evaluations (and checkpoints); may be below 1.
      patience: evaluations without a better metric before the stage stops; 0 = never.
      steps_per_dispatch: evaluations and the end are after multiples of it.
      call_steps: K, steps that one call of the device takes, which divides those between
        evaluations; the last call may be shorter. None = steps_per_dispatch.
      log_dispatches: calls between log lines; nothing is read back from the device in between.
      microbatch: see step.make_train_step.
    """

    epochs: float
    eval_epochs: float
    patience: int
    steps_per_dispatch: int
    log_dispatches: int
    microbatch: int
    call_steps: int | None = None

    @property
    def unit(self) -> int:
        """K."""
        return self.call_steps or self.steps_per_dispatch


@dataclasses.dataclass(frozen=True)
class Stage:
    """One model in training.

    `arrays` lie on one device each (the shard's store, cached flows); `constants` are the same on
    all (catalogue features, a frozen generator) and are an argument, never a closure: buffers can
    be donated, and a checkpoint holds only what is trained.

    Attributes:
      name: folder of its checkpoints and tag of its records.
      init: (rng, batch, constants) -> (params, variables).
      gather: (arrays, index) -> batch, under NumPy and under jit alike.
      loss_fn: (params, variables, constants, batch, rng, step) -> (loss_sum, Aux). The step is the
        number [] of the one that is taken; None stands for the loss without dropout.
      plan: what a step trains on, see nif_jax.data.sampling and nif_jax.data.packing.
      evaluate: (params, variables) -> Evaluation on validation; the state is replicated.
      optimizer: an optax transformation.
      metric: the name of the validation metric to select by; larger is better.
      config: what shaped this stage, for its checkpoint.
      settings: of the loop.
      data: what its steps read.
      scorers: name -> predictions over any split. Rankers have "scores", the flow generator
        "scores" and "labels", models that generate items "constrained" and "unconstrained".
      lookups: (constants, batch, rng) -> {table: Lookup}, the rows of each large table that a pass
        of loss_fn with these arguments reads (nif_jax/training/sparse.py); None = no table is
        large. The optimizer then has to keep the shapes of parameters.
      per_shard: names of variables with an entry for each shard of the run, which start anew where
        a run goes on with another number of shards.
      predict_candidates: for rankers, the function of "scores" for a batch whose count features
        are those of the candidates [C], for candidates [C] and their rows of the batch [C] (None:
        a batch of one row); its constants include what scorers["scores"].prepare gives.
      programs: what it shares with stages on other data.
    """

    name: str
    init: Callable[..., tuple[Tree, Tree]]
    gather: Callable[[Tree, Tree], Tree]
    loss_fn: Callable[..., tuple[jax.Array, Aux]]
    plan: Any
    evaluate: Callable[[Tree, Tree], Evaluation]
    optimizer: optax.GradientTransformation
    metric: str
    config: Mapping[str, Any]
    settings: Settings
    data: Placed
    scorers: Mapping[str, Scorer] = dataclasses.field(default_factory=dict)
    lookups: Callable[..., Mapping[str, Lookup]] | None = None
    per_shard: tuple[str, ...] = ()
    predict_candidates: Callable | None = None
    programs: Programs = dataclasses.field(default_factory=Programs)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished stage at its best step.

    Attributes:
      stage: its functions and data.
      params: host arrays; variables likewise.
      variables: see TrainState.
      metrics: validation metrics at the best step.
      step: the best step.
      examples_per_second: rows (for sequences: targets) of all devices over the time spent in train
        steps, compilation, evaluation and checkpoints left out.
      state: (params, variables) on the devices.
      calibration: of a ranker's logits, fitted on validation after training; None for a generator.
    """

    stage: Stage
    params: Any
    variables: Any
    metrics: Mapping[str, float]
    step: int
    examples_per_second: float
    state: tuple[Any, Any]
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """Of the stage; for a ranker, of its variant."""
        return self.stage.name

    @functools.cached_property
    def digest(self) -> str:
        """Of the state that later stages start from or read."""
        return checkpoint_meta.tree_digest({"params": self.params, "variables": self.variables})

    def score(self, plan: ScoringPlan, scorer: str = "scores") -> dict[str, np.ndarray]:
        """{name: [R, ...]}, rows as in plan.rows.

        Of a ranker's "scores", "logit" is calibrated and "raw_logit" is what the model gives.
        """
        found = self.stage.scorers[scorer](plan, *self.state)
        if scorer != "scores" or self.calibration is None:
            return found
        logit = found["logit"]
        return found | {"logit": self.calibration(logit), "raw_logit": logit}
