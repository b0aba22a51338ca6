"""What the sweeps share: data sets, runs, and grids of them.

A sweep is a list of runs, each a config file with settings for one data set, and all its seeds.
Minutes in the sweeps' docstrings are estimates from the rankers' speed on one core
(benchmarks/README.md); the gathered results say what the processes took.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

SEEDS_TO_EXPLORE = 3

Settings = Mapping[str, Any]
"""{"tsp.weight": 0.1, "rows": ("base", "amen")}: keys of the config and their values."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set that sweeps may name.

    Attributes:
      source: the word of a config's text that selects it.
      file: its events in the folder that launch/sweep.py is given by --data; "" if the source
        needs no file.
      settings: keys of the config that it needs.
    """

    source: str
    file: str = ""
    settings: Settings = dataclasses.field(default_factory=dict)


DATA: Mapping[str, Data] = {
    "movielens_100k": Data("movielens_100k"),
    "synthetic": Data("synthetic"),
    "kuairand": Data("kuairand", "kuairand_pure_14d.parquet"),
    # A tenth of the users: 82,000 purchases and as many sampled negatives.
    "online_retail": Data("online_retail", "uci_online_retail.parquet", {"source.user_share": 0.1}),
    "movietweetings": Data("movietweetings", "movietweetings141k.parquet"),
    "ml_latest_small": Data("ml_latest_small", "ml_latest_small.parquet"),
    "amazon23": Data("amazon23", "amazon23_beauty_health_handmade.parquet"),
}
"""Every data set of every sweep; configs/datasets.py says what the files are."""

BASELINES = ("popularity", "lr", "deepfm", "dcn", "din", "sasrec")


@dataclasses.dataclass(frozen=True)
class Run:
    """One setting on one data set: a process with a workdir of its own.

    Attributes:
      data: a key of DATA.
      variant: what is special about it; unique among the sweep's runs of this data set.
      config: the config file.
      settings: keys of the config that it sets.
      reference: the variant of the same data set that it is compared with, model by model;
        "" = none.
      buckets: whether its AUC by length of history, age of the item and the like is gathered too.
    """

    data: str
    variant: str
    config: str
    settings: Settings
    reference: str = ""
    buckets: bool = False

    def __post_init__(self):
        if self.data not in DATA:
            raise ValueError(f"run {self.name!r}: no data set {self.data!r}; {', '.join(DATA)}.")

    @property
    def name(self) -> str:
        """Its folder in the sweep's workdir, and its line in the tables."""
        return f"{self.data}-{self.variant}"

    @property
    def reference_name(self) -> str:
        """The name of the run that it is compared with; "" = none."""
        return self.reference and f"{self.data}-{self.reference}"

    @property
    def file(self) -> str:
        """Its events in the folder that --data names; "" if it needs none."""
        return DATA[self.data].file

    @property
    def text(self) -> str:
        """Config file and text, as --config takes it."""
        data = DATA[self.data]
        settings = data.settings | self.settings
        return f"{self.config}:{data.source}{',' if settings else ''}{words(settings)}"


def words(settings: Settings) -> str:
    """The settings as a config's text has them: "tsp.weight=0.1,rows=base+amen"."""
    return ",".join(f"{key}={_word(value)}" for key, value in settings.items())


def _word(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def grid(
    config: str,
    data: Sequence[str],
    variants: Mapping[str, Settings],
    shared: Settings,
    reference: str = "",
) -> list[Run]:
    """A run for each data set and variant.

    Args:
      config: the config file of all.
      data: keys of DATA.
      variants: what each sets beside `shared`, and may set otherwise.
      shared: what all set.
      reference: the variant that the others are compared with; "" = none.
    """
    return [
        Run(
            name,
            variant,
            config,
            dict(shared) | dict(settings),
            "" if variant == reference else reference,
        )
        for name in data
        for variant, settings in variants.items()
    ]


def axis(key: str, values: Sequence[Any], name: str = "") -> dict[str, Settings]:
    """Variants of one key: {"<name>_<value>": {key: value}}; name: default the key's last part."""
    name = name or key.rpartition(".")[2]
    return {f"{name}_{_word(value)}": {key: value} for value in values}


def product(*axes: Mapping[str, Settings]) -> dict[str, Settings]:
    """Every combination of one variant from each axis, names joined by "-"."""
    return {
        "-".join(names): {
            k: v for name, axis in zip(names, axes, strict=True) for k, v in axis[name].items()
        }
        for names in itertools.product(*axes)
    }
