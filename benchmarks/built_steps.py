"""Train steps of rankers and generators of any size, on a random log that takes no time to prepare.

Shared by the benchmarks of large tables and of accelerators.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from nif_jax.training.devices.base import Devices

USERS, EVENTS = 5_000, 60
"""Users with events, and events of each: what a store holds beside the tables costs no time."""


class Built(NamedTuple):
    """What a step is made of.

    Attributes:
      model: a Flax module.
      functions: init, loss and gather of a Stage, each but the last with the model as first
        argument.
      lookups: see Stage.
      index: indices of a dispatch, leaves [1, K, ...].
      microbatch: rows of a pass, 0 = all.
      constants: beside the catalogue.
      events: of each user of the log.
    """

    model: Any
    functions: tuple[Callable, Callable, Callable]
    lookups: Callable | None
    index: Any
    microbatch: int
    constants: dict[str, Any]
    events: int = EVENTS


def log(items: int, events: int = EVENTS):
    """Store of a log of few users and many items, and the features of these items."""
    import numpy as np

    from nif_jax.data.windows import Store

    users = USERS * EVENTS // events
    rng, total = np.random.default_rng(0), users * events
    owner = np.repeat(np.arange(users), events).astype(np.int32)
    begin = owner * events
    # Users are spread over the whole table.
    ids = 2 + (rng.permutation(users) * max(1, items // users)) % items
    store = Store(
        item=rng.integers(1, items + 1, total).astype(np.int32),
        scene=rng.integers(1, 4, total).astype(np.int32),
        action=rng.integers(1, 3, total).astype(np.int32),
        time=np.tile(np.arange(events, dtype=np.int32) * 3600, users),
        label=rng.integers(0, 2, total).astype(np.float32),
        train=np.ones(total, bool),
        user=owner,
        user_features={"id": ids.astype(np.int32)},
        history_row=np.arange(total, dtype=np.int32),
        history_begin=begin,
        history_end=np.arange(total, dtype=np.int32),
        frozen_end=begin,
        order_only=np.zeros(total, bool),
    )
    features = np.append(0, np.arange(2, items + 2)).astype(np.int32)
    return store, {"id": features[:, None]}


def ranker(
    items: int,
    sparse_rows: int,
    batch: int = 1024,
    microbatch: int = 256,
    text: str = "",
    dtype: str = "float32",
    steps: int = 4,
) -> Built:
    """The base ranker without count features: L = 50, as many users as items.

    Args:
      items: N.
      sparse_rows: see config.train.sparse_rows.
      batch: rows of a step; microbatch: of a pass, 0 = all.
      text: settings, as after a config's name.
      dtype: see config.compute_dtype.
      steps: K of a dispatch.
    """
    import jax.numpy as jnp
    import numpy as np

    from configs import nif
    from nif_jax.models.ranker import Ranker
    from nif_jax.stages import base
    from nif_jax.stages.large_tables import ranker_lookups

    settings = dict(nif.get_config(",".join(filter(None, ["synthetic", text]))).ranker)
    settings.pop("statistics")
    settings["dtype"] = jnp.dtype(dtype)
    rows = {"id": items + 2}
    model = Ranker(item_sizes=rows, user_sizes=rows, num_scenes=3, num_actions=2, **settings)
    lookups = ranker_lookups(rows, rows, sparse_rows, model.id_dropout, whole_catalogue=False)
    rng = np.random.default_rng(1)
    last = rng.integers(0, USERS, (1, steps, batch)).astype(np.int32) * EVENTS + EVENTS - 1
    index = {
        "row": last,
        "weight": np.ones(last.shape, np.float32),
        "pair": np.zeros((1, steps, batch // 2), np.float32),
    }
    functions = (base.init, base.loss, base.gather_rows(50))
    return Built(model, functions, lookups, index, microbatch, {})


def generator(
    items: int,
    sparse_rows: int,
    negatives: str,
    rows: int = 16,
    length: int = 54,
    text: str = "",
    dtype: str = "float32",
    steps: int = 4,
) -> Built:
    """The flow generator with its whole loss.

    Args:
      items: N.
      sparse_rows: see config.pretrain.sparse_rows.
      negatives: see config.flow_loss.negatives.
      rows: B of a step; length: S, all of it one user's.
      text: settings, as after a config's name.
      dtype: see config.compute_dtype.
      steps: K of a dispatch.
    """
    import jax.numpy as jnp
    import numpy as np

    from configs import nif
    from nif_jax.models.flow import FlowDecoder
    from nif_jax.stages import generator as stage
    from nif_jax.stages.flow_loss import FlowLoss
    from nif_jax.stages.large_tables import generator_lookups
    from nif_jax.stages.sequences import gather_sequences
    from nif_jax.training.devices.base import AXIS

    words = ["synthetic", f"flow_loss.negatives={negatives}", text]
    config = nif.get_config(",".join(filter(None, words)))
    kind, events = jnp.dtype(dtype), max(EVENTS, length)
    sizes: dict[str, Any] = {"item_sizes": {"id": items + 2}, "num_scenes": 3, "num_actions": 2}
    model = FlowDecoder(**sizes, **config.generator, dtype=kind)
    spec = FlowLoss(**config.flow_loss, horizon=config.flow.horizon, dtype=kind)
    lookups = generator_lookups(model, spec, sparse_rows, AXIS)
    users = USERS * EVENTS // events
    first = np.random.default_rng(1).integers(0, users, (1, steps, rows, 1)) * events
    entry = (first + np.arange(length)).astype(np.int32)
    index = {"entry": entry, "segment": np.ones(entry.shape, np.int32)}
    loss = functools.partial(stage.loss, model, spec, AXIS)
    frequency = np.append(0, np.full(items, 1 / items)).astype(np.float32)
    gather = functools.partial(gather_sequences, "all", 0)
    functions = (stage.init, lambda _, *args: loss(*args), gather)
    return Built(model, functions, lookups, index, 0, {"frequency": frequency}, events)


def mapped_step(built: Built, devices: Devices | None = None) -> tuple[Callable, Any, Devices]:
    """A dispatch, which takes over the state's buffers; the optimizer, and the devices.

    Devices have one shard; None = the first device.
    """
    import jax

    from nif_jax.training.devices.pmap import Pmap
    from nif_jax.training.optim import make_optimizer
    from nif_jax.training.stage import Stage
    from nif_jax.training.step import make_train_step

    _, loss, gather = built.functions
    optimizer = make_optimizer(
        learning_rate=1e-3,
        total_steps=1000,
        warmup_steps=0,
        decay="constant",
        weight_decay=1e-2,
        clip_norm=1.0,
        flatten=built.lookups is None,
    )
    nothing: dict[str, Any] = dict.fromkeys(("init", "plan", "evaluate", "settings", "data"))
    stage = Stage(
        name="benchmark",
        gather=gather,
        loss_fn=functools.partial(loss, built.model),
        optimizer=optimizer,
        metric="",
        config={},
        **nothing | {"lookups": built.lookups},
    )
    parallel = devices or Pmap(jax.local_devices()[:1])
    step = parallel.map(make_train_step(stage, built.microbatch, True), donate=(0,))
    return step, optimizer, parallel


def start(items: int, built: Built, devices: Devices | None = None) -> tuple[Callable, list, tuple]:
    """The mapped step, [the state], and the other arguments, on the devices; see mapped_step."""
    import jax
    import numpy as np

    from nif_jax.training import train_state

    step, optimizer, parallel = mapped_step(built, devices)
    store, features = log(items, built.events)
    constants = {"items": features} | built.constants
    few = jax.tree.map(lambda x: x[0, 0, :2], built.index)
    init, _, gather = built.functions
    params, _ = init(built.model, train_state.key(0), gather({"store": store}, few), constants)
    state = [train_state.create_on_devices(params, {}, optimizer, 0, parallel)]
    del params
    arrays = parallel.shard({"store": jax.tree.map(lambda x: np.asarray(x)[None], store)})
    return step, state, (arrays, parallel.replicate(constants), parallel.shard(built.index))


def shapes(items: int, built: Built) -> tuple[Any, Any, tuple]:
    """The mapped step, and shapes of the parameters and of the step's arguments."""
    import jax

    from nif_jax.training import train_state

    step, optimizer, _ = mapped_step(built)
    store, features = log(items, built.events)
    constants = {"items": features} | built.constants
    few = jax.tree.map(lambda x: x[0, 0, :2], built.index)
    init, _, gather = built.functions
    batch = gather({"store": store}, few)
    params, _ = jax.eval_shape(lambda: init(built.model, train_state.key(0), batch, constants))
    state = jax.eval_shape(lambda p: train_state.create(p, {}, optimizer, 0), params)

    def on_device(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), tree)

    arguments = (*map(on_device, (state, {"store": store}, constants)), built.index)
    return step, params, arguments
