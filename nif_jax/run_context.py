"""What all stages of one seed share: config, data, devices, metrics."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nif_jax.config_keys import restrict
from nif_jax.data.cache import load_movelines
from nif_jax.data.content import content_vectors
from nif_jax.data.dataset import Dataset, build_dataset
from nif_jax.data.schema import require_choice
from nif_jax.losses.contrastive import item_frequency
from nif_jax.metrics.writer import MetricWriter
from nif_jax.parallel import Placed, Pmap


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of one seed share.

    Attributes:
      config: the configuration.
      seed: the model seed.
      folder: checkpoints and metrics of this seed.
      dataset: the data.
      parallel: the devices.
      writer: metrics.
      train: False only reads finished stages.
    """

    config: ConfigDict
    seed: int
    folder: pathlib.Path
    dataset: Dataset
    parallel: Pmap
    writer: MetricWriter
    train: bool

    @functools.cached_property
    def on_device(self) -> bool:
        """Whether the store fits the devices, or config.data.input says so."""
        choice = self.config.data.input
        require_choice("data.input", choice, ("auto", "device", "host"))
        size = sum(x.nbytes // len(x) for x in jax.tree.leaves(self.dataset.stores))
        return choice == "device" or (choice == "auto" and size <= self.config.data.device_bytes)

    @functools.cached_property
    def frozen(self) -> dict[str, Any]:
        """What every stage may read and none changes."""
        lines = self.dataset.movelines
        events = self.dataset.train_events
        frequency = item_frequency(lines.item, events, lines.num_items)
        return {"items": dict(self.dataset.items), "frequency": frequency}

    @functools.cached_property
    def content(self) -> np.ndarray:
        """[N + 1, C] content vectors of the catalogue."""
        seed = self.config.data.seed
        return content_vectors(self.dataset.movelines, seed=seed, **self.config.content)

    def seen_by(self, stage: str) -> "Run":
        """This run with nothing in its config but what may shape a stage; see config_keys.READ."""
        seen = restrict(self.config, stage)
        return self if seen is self.config else dataclasses.replace(self, config=seen)

    def place(self, **extra: Any) -> Placed:
        """The store on the devices (or not), and frozen with more in it."""
        return self.parallel.place({"store": self.dataset.stores}, self.frozen | extra,
                                   self.on_device)  # fmt: skip


def load_dataset(config: ConfigDict, parallel: Pmap) -> Dataset:
    """The configured data set, laid out for the devices."""
    data = config.data
    lines = load_movelines(data.source, seed=data.seed, cache_dir=data.cache_dir, **config.source)
    return build_dataset(
        lines,
        split=data.split,
        train_share=data.train_share,
        validation_share=data.validation_share,
        history=data.history,
        ties=data.ties,
        label_share=data.label_share,
        label_scenes=data.label_scenes,
        negatives=data.negatives,
        negatives_exclude=data.negatives_exclude,
        seed=data.seed,
        num_shards=parallel.num_shards,
        local_shards=tuple(parallel.local_shards),
    )
