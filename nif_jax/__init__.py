"""nif_jax: generative click-through-rate prediction in JAX and Flax."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    import os

    from nif_jax.inference.model import RunModel

__version__ = "0.1.0"


def load(
    workdir: str | os.PathLike[str], variant: str = "selected", seed: int | None = None
) -> RunModel:
    """A variant of a finished run, ready to score requests.

    Args:
      workdir: of the run.
      variant: one of the run's; "selected" is the one that validation chose.
      seed: model seed; None is the run's first.

    Raises:
      nif_jax.reports.workdirs.WorkdirError: the workdir is none, or its run has not finished.
      nif_jax.data.schema.ConfigError: an unknown variant or seed, or data that has changed.
      nif_jax.training.checkpoint.CheckpointError: a stage is missing or damaged.
    """
    from nif_jax.inference import build  # imports JAX, which `import nif_jax` does not

    return build.load(workdir, variant, seed)
