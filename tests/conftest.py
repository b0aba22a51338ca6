"""Factories that several tests share; session-wide, so that property tests may use them."""

import atexit
import gc
import os
import shutil
import signal
import tempfile

# A shell's background job ignores SIGINT and hands that on to what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before JAX starts: whole runs then cross two devices, on any machine.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
# Many tests run the same small config: each program is compiled once a session, for all processes
# of it and for those that tests start. JAX locks the folder only if its size is limited.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have the variables of the first process
    _COMPILED = tempfile.mkdtemp(prefix="nif_jax_tests_")
    atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(16 * 2**30)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Tests compile much and compute little: this halves their time, in the processes they start too.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Tracing makes many objects that live long, and lowering notes where each came from.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
gc.set_threshold(200_000, 20, 20)

import jax
import numpy as np
import pytest
from hypothesis import settings
from matplotlib.figure import Figure

from nif_jax.data.buckets import NUM_GAPS
from nif_jax.data.schema import NO_LABEL, Movelines
from nif_jax.data.windows import Impressions, Window
from nif_jax.reports import plots

# Compilation makes the first example of a property test slow, and the same commit has to give the
# same result twice.
settings.register_profile("nif_jax", deadline=None, derandomize=True)
settings.load_profile("nif_jax")


LONG = (
    "bad_input/test_workdirs.py",
    "end_to_end/",
    "inference/",
    "launch/",
    "serve/",
    "test_cluster.py",
    "test_contributing.py",
    "test_drift.py",
    "test_mesh.py",
    "test_notebooks.py",
    "test_sweep.py",
)
"""Files and folders that train whole runs."""


PICTURES = ("reports/", "end_to_end/", "notebooks", "test_sweep.py")
"""Files and folders whose runs render their figures."""


@pytest.fixture(scope="module", autouse=True)
def _render_few_figures(request):
    """Elsewhere the figures of a run are made, but not rendered, which takes a third of a run."""
    with pytest.MonkeyPatch.context() as patch:
        if not any(name in request.node.nodeid for name in PICTURES):
            drawn = plots.png(Figure(figsize=(1, 1)))
            patch.setattr(plots, "png", lambda figure: drawn)
        yield


def pytest_collection_modifyitems(items):
    """Long files first, so that at the end no process works on one alone."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Every compiled program maps memory, of which Linux allows a process 65,530 pieces: with all
    programs of all modules kept, the compiler dies of a segmentation fault near the end."""
    yield
    jax.clear_caches()


def _random_movelines(
    seed,
    *,
    users=6,
    items=9,
    scenes=3,
    actions=3,
    events=(1, 14),
    seconds=12,
    unlabelled=0.2,
    label_free_users=0.2,
    distinct_items=False,
):
    """A small Movelines store.

    Args:
      seed: of everything.
      users: U; items: N; scenes and actions: the largest ids.
      events: fewest and most events of a user.
      seconds: times are drawn from this many, so a small number makes ties.
      unlabelled: share of events without a label.
      label_free_users: share of users none of whose events has a label.
      distinct_items: row r shows item r + 1, so that a window names the rows it holds.
    """
    rng = np.random.default_rng(seed)
    offsets = np.append(0, np.cumsum(rng.integers(events[0], events[1] + 1, users)))
    count = int(offsets[-1])
    user = np.repeat(np.arange(users), np.diff(offsets))
    time = rng.integers(0, seconds, count)
    label = rng.integers(0, 2, count)
    label[rng.random(count) < unlabelled] = NO_LABEL
    label[(rng.random(users) < label_free_users)[user]] = NO_LABEL
    items = count if distinct_items else items
    item = np.arange(1, count + 1) if distinct_items else rng.integers(1, items + 1, count)
    genre = rng.integers(0, 4, (items + 1, 2)).astype(np.int32)
    genre[0] = 0
    return Movelines(
        name="toy",
        origin=f"seed {seed}",
        user_offsets=offsets.astype(np.int64),
        item=item.astype(np.int32),
        scene=rng.integers(1, scenes + 1, count).astype(np.int32),
        action=rng.integers(1, actions + 1, count).astype(np.int32),
        time=1_000_000_000 + time[np.lexsort((time, user))],
        label=label.astype(np.int8),
        item_features={"genre": genre},
        user_features={"age": rng.integers(0, 3, users).astype(np.int32)},
        vocabulary={},
        titles=np.array([""] * items),
        counts={},
    )


def _random_window(seed, real, length, *, items=9, scenes=3, actions=3):
    """A Window [B, length] whose row b has real[b] entries, padded in front."""
    rng = np.random.default_rng(seed)
    mask = np.arange(length) >= length - np.asarray(real)[:, None]

    def ids(low, high):
        return np.where(mask, rng.integers(low, high, mask.shape), 0).astype(np.int32)

    return Window(
        ids(1, items + 1), ids(1, scenes + 1), ids(1, actions + 1), ids(0, NUM_GAPS), mask
    )


def _random_impressions(seed, real, length, *, flow=None, ages=3, users=5, **sizes):
    """Impressions [B] with a history of real[b] entries; flow is (T, D_G) or None."""
    rng = np.random.default_rng(seed)
    real, batch = np.asarray(real), len(real)

    def ids(high):
        return rng.integers(1, high + 1, batch).astype(np.int32)

    return Impressions(
        item=ids(sizes.get("items", 9)),
        scene=ids(sizes.get("scenes", 3)),
        label=rng.integers(0, 2, batch).astype(np.float32),
        weight=np.ones(batch, np.float32),
        user_features={"id": ids(users), "age": ids(ages) - 1},
        recency=np.where(real > 0, ids(NUM_GAPS - 1), 0).astype(np.int32),
        history_length=np.frexp(real.astype(np.float32))[1],
        history=_random_window(seed + 1, real, length, **sizes),
        entry=np.maximum(np.cumsum(real) - 1, 0).astype(np.int32),
        flow=None if flow is None else rng.normal(size=(batch, *flow)).astype(np.float32),
        flow_mask=real > 0,
        events=None,
        pair=np.zeros(batch // 2, np.float32),
    )


def _random_params(seed, init, *args, scale=0.5):
    """Parameters of the shapes that init(rng, *args) makes, no bias left at 0; nothing is run."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda s: (scale * rng.normal(size=s.shape)).astype(np.float32), shapes)


@pytest.fixture(scope="session")
def random_movelines():
    """See _random_movelines."""
    return _random_movelines


@pytest.fixture(scope="session")
def random_window():
    """See _random_window."""
    return _random_window


@pytest.fixture(scope="session")
def random_impressions():
    """See _random_impressions."""
    return _random_impressions


@pytest.fixture(scope="session")
def random_params():
    """See _random_params."""
    return _random_params
