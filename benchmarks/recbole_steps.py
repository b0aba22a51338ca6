"""Times training steps of RecBole's DIN; run by benchmarks/recbole_din.py in RecBole's environment.

Prints "ready", and then for each line of input the seconds that `steps` steps took.

    peers/bin/python benchmarks/recbole_steps.py <steps>
"""

import pathlib
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

BATCH, LENGTH = 1024, 50

SETTINGS = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender", "occupation"],
        "item": ["item_id", "release_year", "class"],
    },
    "threshold": {"rating": 4},  # the label
    "train_neg_sample_args": None,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"},
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "train_batch_size": BATCH,
    "embedding_size": 16,
    "mlp_hidden_size": [128, 64],  # of the attention and of the tower
    "metrics": ["AUC"],
    "valid_metric": "AUC",
    "use_gpu": False,
    "state": "ERROR",
}


def batches(config: Any) -> tuple[Any, Iterator[Any]]:
    """The data set of the model, and its batches without end."""
    from recbole.data import create_dataset, data_preparation

    data, _, _ = data_preparation(config, create_dataset(config))

    def stream():
        while True:
            yield from (batch for batch in data if len(batch) == BATCH)

    return data.dataset, stream()


def main(steps: int) -> None:
    """Answers each line of input."""
    # RecBole imports ray for its search of settings only.
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    vars(ray)["tune"] = tune
    sys.modules.update({"ray": ray, "ray.tune": tune})
    import recbole
    import torch
    from recbole.config import Config
    from recbole.model.sequential_recommender import DIN

    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]  # RecBole reads it
    folder = pathlib.Path(recbole.__file__).parent / "dataset_example"
    config = Config("DIN", "ml-100k", config_dict=SETTINGS | {"data_path": str(folder)})
    dataset, stream = batches(config)
    model = DIN(config, dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            model.calculate_loss(next(stream)).backward()
            optimizer.step()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
