"""An artefact in a new process: its first score, and recommendations out of a large catalogue.

    python -m benchmarks.recommendations --artefact=artefacts/nif [--users=10000] [--k=100]

Loads the artefact, scores two items, and recommends for users with events, 1,024 of them a call.
Prints seconds, imports included, and the peak memory of the process. --generate=<log.parquet>
writes a log of 1,000,000 items, which 10,000 users see in 200 events each, to train one on.
"""

import argparse
import itertools
import pathlib
import resource
import time


def generate(path: pathlib.Path, items: int = 1_000_000, users: int = 10_000) -> None:
    """Writes a log in which each item is seen twice, 30 % of the events positive."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, events = np.random.default_rng(0), 2 * items
    columns = {
        "user_id": rng.permutation(np.arange(events) % users),
        "item_id": np.concatenate([rng.permutation(items), rng.permutation(items)]),
        "timestamp": 1_600_000_000 + rng.integers(0, 10**7, events),
        "label": (rng.random(events) < 0.3).astype(np.int8),
        "scene": np.array(["home", "search"])[rng.integers(0, 2, events)],
    }
    pq.write_table(pa.table(columns), path)


def measure(artefact: pathlib.Path, users: int, k: int) -> None:
    """Prints what the docstring of this file says."""
    begin = time.perf_counter()
    import numpy as np

    from nif_jax import serving

    model = serving.load(artefact)
    names, log = model.vocabulary, model.encoder.log
    moment = {"timestamp": int(log.rows.time.max()) + 60, "scene": str(names.scene[0])}
    model.score(moment | {"user_id": str(names.user[0]), "items": names.item[:2].tolist()})
    print(f"{artefact}: first score after {time.perf_counter() - begin:.1f} s, {_peak()}")
    begin, found = time.perf_counter(), 0
    known = names.user[np.flatnonzero(np.diff(log.offsets))][:users]
    requests = (moment | {"user_id": str(user)} for user in known)
    while part := list(itertools.islice(requests, 1024)):
        found += sum(len(one.item_id) for one in model.recommend(part, k))
    seconds = time.perf_counter() - begin
    print(
        f"{found:,} of {len(names.item):,} items for {len(known):,} users in {seconds:.1f} s, "
        f"{_peak()}"
    )


def _peak() -> str:
    """The largest memory of this process so far."""
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artefact", type=pathlib.Path, help="folder of --mode=export")
    parser.add_argument("--generate", type=pathlib.Path, help="writes a log to this file instead")
    parser.add_argument("--users", type=int, default=10_000, help="to recommend for")
    parser.add_argument("--k", type=int, default=100, help="items for each")
    given = parser.parse_args()
    if given.generate:
        generate(given.generate)
    else:
        measure(given.artefact, given.users, given.k)
