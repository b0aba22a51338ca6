"""The steps of a checkpoint of large tables, for benchmarks.catalogue_scaling --memory."""

import pathlib
from collections.abc import Callable


def save_and_restore(folder: pathlib.Path, state: list, report: Callable[[str], None]) -> None:
    """What nif_jax/training/loop.py does with a state at an evaluation and when a run resumes.

    Args:
      folder: of the checkpoints.
      state: [replicated TrainState]; it is emptied, so that nothing else refers to the state.
      report: takes the name of each step after it.
    """
    # After common.pin: JAX counts the cores when it starts.
    import jax

    from nif_jax.training.checkpoint import Checkpointer
    from nif_jax.training.devices.pmap import Pmap

    parallel = Pmap()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state[0])
    with Checkpointer(folder, {}, {"data": {}, "stages": {}}, parallel) as kept:
        host_state = parallel.to_checkpoint(state[0])
        report("to host")
        kept.save_best(3, host_state.params, host_state.variables, {})
        report("save best")
        kept.save_last(3, host_state, {"done": False, "best_step": 3})
        report("save last")
        del host_state
        state.clear()
        host_state, _ = kept.resume(like) or (None, None)
        report("resume")
        state.append(parallel.from_checkpoint(host_state))
        report("to device")
