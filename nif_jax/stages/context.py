"""What all stages of one seed share: config, data, devices, metrics."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nif_jax.config import flatten, stage_config
from nif_jax.data import dates
from nif_jax.data.dataset import Dataset, build_dataset, with_statistics
from nif_jax.data.preparation import layout
from nif_jax.data.preparation.cache import configured, load_movelines
from nif_jax.data.preparation.content import content_vectors
from nif_jax.data.preparation.identity import identify
from nif_jax.data.schema import Movelines, require_choice
from nif_jax.metrics.writer import MetricWriter
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.memory import bytes_for_data
from nif_jax.training.devices.placed import Placed
from nif_jax.training.profile import Profiler
from nif_jax.training.programs import Programs
from nif_jax.variants import variant_config


@dataclasses.dataclass(frozen=True)
class Context:
    """What all stages of one seed share.

    Attributes:
      config: the configuration.
      seed: the model seed.
      folder: checkpoints and metrics of this seed.
      dataset: the data.
      parallel: the devices.
      writer: metrics.
      train: False only reads finished stages.
      profiler: measures the train steps of stages; None = nothing does.
      kept: name -> (source, what is made of it once for all stages); copies of the run share it.
      programs: what stages of other days made, see `shared_programs`; copies of the run share it.
      started: stage -> table -> rows that were copied from config.init_from, see transfer.Rows.
    """

    config: ConfigDict
    seed: int
    folder: pathlib.Path
    dataset: Dataset
    parallel: Devices
    writer: MetricWriter
    train: bool
    profiler: Profiler | None = None
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)
    programs: dict[Hashable, Any] = dataclasses.field(default_factory=dict)
    started: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def items(self) -> dict[str, np.ndarray]:
        """The catalogue's features, [N + 1, M] each."""
        return dict(self.dataset.items)

    @property
    def compute_dtype(self) -> np.dtype:
        """Of the activations and products of all models that are trained, but for the tokenizer."""
        return jnp.dtype(self.config.compute_dtype)

    @property
    def scoring_rows(self) -> int:
        """Rows of one device and step when scoring, by the kind of device."""
        on_cpu, elsewhere = self.config.eval.batch_size, self.config.eval.accelerator_batch_size
        return on_cpu if jax.default_backend() == "cpu" else elsewhere

    @property
    def content(self) -> np.ndarray:
        """[N + 1, C] content vectors of the catalogue."""

        def make():
            seed = self.config.data.seed
            data = self.dataset
            liked = data.train_events & (data.event_label != 0)
            return content_vectors(data.movelines, liked, seed=seed, **self.config.content)

        return self._once("content", self.dataset, make)

    @property
    def identity(self) -> dict[str, Any]:
        """The data by content, see identity.identify."""
        config, lines = flatten(self.config.to_dict()), self.dataset.movelines
        return self._once("identity", self.dataset, lambda: identify(config, lines))

    def for_stage(self, stage: str) -> "Context":
        """This run with only the keys that shape a stage in its config, see config.STAGE_KEYS."""
        config = stage_config(self.config, stage)
        return self if config is self.config else dataclasses.replace(self, config=config)

    def shared_programs(self, stage: str, loss_fn: Callable) -> Programs:
        """What a stage with this config shares with those of other days (docs/daily.md).

        Its functions depend on its config, the sizes of tables, and the modules and settings that
        its loss was made of, some of which depend on the data: steps over which a weight falls,
        numbers of codes. Schedules and stores are arguments, if their shapes are fixed.
        """
        if not self.config.data.fixed_shapes:
            return Programs()
        own, data = flatten(self.config.to_dict()), self.dataset
        del own["data.split"], own["init_from"]
        sizes = (data.item_sizes, data.user_sizes, data.num_scenes, data.num_actions)
        key = json.dumps([stage, own, sizes, repr(loss_fn)], sort_keys=True)
        return Programs(key, self.programs)

    def fits(self, arrays: Any) -> bool:
        """Whether leaves [D_local, ...] fit the devices, or config.data.input says so.

        What is memory-mapped did not fit the memory of the host: "auto" leaves it there.
        """
        choice = self.config.data.input
        require_choice("data.input", choice, ("auto", "device", "host"))
        leaves = jax.tree.leaves(arrays)
        if choice == "auto":
            mapped = any(isinstance(x, np.memmap) for x in leaves)
            size = sum(x.nbytes // len(x) for x in leaves)
            return not mapped and size <= (self.config.data.device_bytes or bytes_for_data())
        return choice == "device"

    def place(self, arrays: Mapping[str, Any] | None = None, **constants: Any) -> Placed:
        """The store and the catalogue where steps read them, with what else a stage reads.

        Args:
          arrays: name -> leaves [D_local, ...]; stages that give the same ones share one copy on
            the devices.
          **constants: what is equal on all devices.
        """
        arrays = {"store": self.dataset.stores} | dict(arrays or {})
        on_device = self.fits(arrays)
        if on_device:
            arrays = {
                k: self._once(k, v, functools.partial(self._shard, v)) for k, v in arrays.items()
            }
        items = self._once("items", self.dataset, lambda: self.parallel.replicate(self.items))
        constants = {"items": items} | self.parallel.replicate(constants)
        return Placed(arrays, constants, on_device, self.parallel)

    def _shard(self, tree: Any) -> Any:
        return self.parallel.shard(jax.tree.map(np.asarray, tree))  # a ShardColumn is padded

    def _once(self, name: str, source: Any, make: Callable[[], Any]) -> Any:
        """What `make` makes of a source, made anew only for another one."""
        if name not in self.kept or self.kept[name][0] is not source:
            self.kept[name] = (source, make())
        return self.kept[name][1]


def load_lines(config: ConfigDict, **options: Any) -> Movelines:
    """The configured store; see cache.load_movelines for the options."""
    return load_movelines(**configured(config), **options)


def load_dataset(config: ConfigDict, parallel: Devices) -> Dataset:
    """The configured data set, laid out for the devices."""
    data = config.data
    statistics = {variant_config(config, name).ranker.statistics for name in ("base", *config.rows)}
    read_lines = functools.partial(load_lines, config)
    options: dict[str, Any] = {
        "split": data.split,
        "time_zone": data.time_zone,
        "train_share": data.train_share,
        "validation_share": data.validation_share,
        "history": data.history,
        "ties": data.ties,
        "label_share": data.label_share,
        "label_scenes": data.label_scenes,
        "seed": data.seed,
    }
    shards: dict[str, Any] = {
        "num_shards": parallel.num_shards,
        "local_shards": tuple(parallel.local_shards),
    }
    drawn = {
        "negatives": data.negatives,
        "negatives_exclude": data.negatives_exclude,
        "negatives_days": data.negatives_days,
        "fixed_shapes": data.fixed_shapes,
    }
    window = dates.window(data.split, data.time_zone)
    if data.negatives or data.fixed_shapes or window:  # made in memory
        dataset = build_dataset(read_lines(), **options, **shards, **drawn)
    else:
        dataset = layout.load_dataset(read_lines, data.cache_dir, **options, **shards)
    return with_statistics(dataset, sorted(statistics - {"none"}), data.fixed_shapes)
