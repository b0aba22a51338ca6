"""Sweeps without a file: flags give values to keys of a config.

Every combination of the values:

    python launch/sweep.py --config=configs/nif.py:synthetic,smoke --num_seeds=3 \\
        --set tsp.weight=0,0.05,0.1 --set ranker.dropout=0.2,0.4

With --search, trials within ranges, and among values:

    python launch/sweep.py --config=configs/nif.py:synthetic,smoke --search=30 \\
        --set ranker.dropout=0..0.5 --set train.learning_rate=1e-4..1e-2:log --set tsp.weight=0,0.05

Commas separate values; a value that is a tuple has + between its parts, as in a config's text:
--set ranker.tower=256+128,128. A range has .. between its ends, which belong to it, and :log if it
is searched on a logarithmic scale.
"""

import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from configs import text
from configs.sweeps import common


class GridRun(common.Run):
    """A run whose data set is named in the text of its config, and whose name is its settings."""

    def __post_init__(self):
        """The text of the config may name any data set."""

    @property
    def name(self) -> str:
        return self.variant.replace("/", "_")  # of a path; the name is that of a folder

    @property
    def file(self) -> str:
        return ""

    @property
    def text(self) -> str:
        return f"{self.config}{',' if ':' in self.config else ':'}{common.words(self.settings)}"


class Range(NamedTuple):
    """Numbers from low to high, as their texts."""

    low: str
    high: str
    log: bool


NAME_LENGTH = 120
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")

Space = Mapping[str, Range | list[str]]
"""Key of the config -> its range, or its values."""


def get_grid(
    config: str, varied: Sequence[str], overrides: Sequence[str] = ()
) -> tuple[str, str, list[common.Run]]:
    """Name, docstring and runs of the grid that --config and each --set describe.

    Args:
      config: config file and text, as --config takes it.
      varied: "<key>=<value>,<value>,..."; the first varies slowest.
      overrides: --config.<key>=<value>, for all runs.

    Raises:
      TextError: no key is varied, one has a range, no values or equal values, or is set elsewhere
        too. Whether the keys exist and the values fit is checked when the configs are built.
    """
    axes = {}
    for key, values in get_space(config, varied, overrides).items():
        if isinstance(values, Range):
            raise text.TextError(
                f"--set {key} has a range, which only a search has: add --search=<trials>, or give "
                f"values, --set {key}={values.low},{values.high}."
            )
        axes[key] = common.axis(key, values, key)
    variants = common.product(*axes.values())
    doc = f"How do the results depend on {' and '.join(axes)}?"
    runs = [GridRun("", variant, config, variants[variant]) for variant in variants]
    return name(config, *axes), doc, runs


def get_space(config: str, varied: Sequence[str], overrides: Sequence[str] = ()) -> Space:
    """What each --set gives to its key, see get_grid; values may be a range.

    Raises:
      TextError: as get_grid, or the low end of a range is not below its high end, or is not
        positive where the scale is logarithmic.
    """
    if not varied:
        raise text.TextError("--config has no grid; add --set <key>=<value>,<value>,...")
    _, _, rest = config.partition(":")
    shared = (word.removeprefix("--config.").partition("=")[0] for word in overrides)
    taken = {*shared, *text.parse(rest)[3]}
    space: dict[str, Range | list[str]] = {}
    for word in varied:
        key, _, listed = word.partition("=")
        values = listed.split(",")
        if not key or not all(values):
            raise text.TextError(f"--set {word} has to be --set <key>=<value>,<value>,...")
        (target,) = text.parse(f"{key}={values[0]}")[3]  # "model" is short for "rows"
        if target in taken:
            raise text.TextError(
                f"--set {word}: {target} is set twice. Give all of its values in one --set "
                f"{key}=<value>,<value>,... and nowhere else."
            )
        repeated = [value for value in values if values.count(value) > 1]
        if repeated:
            raise text.TextError(f"--set {word} has the value {repeated[0]} twice.")
        taken.add(target)
        space[key] = _range(word, listed) or values
    return space


def _range(word: str, listed: str) -> Range | None:
    """The range that a text describes, if it is one."""
    match = _RANGE.fullmatch(listed)
    if match is None:
        return None
    low, high, log = match.groups()
    if not float(low) < float(high):
        raise text.TextError(f"--set {word}: the first end of a range has to be below the second.")
    if log and float(low) <= 0:
        raise text.TextError(f"--set {word}: with :log the ends of a range have to be above 0.")
    return Range(low, high, bool(log))


def name(config: str, *more: str) -> str:
    """The config's file, its text and `more` as a name of a folder, which is another one for
    another text. The end of a long name is a digest of all of it."""
    file, _, rest = config.partition(":")
    words = "".join(c if c.isalnum() or c in "_.=" else "-" for c in rest)
    whole = "-".join(filter(None, [pathlib.Path(file).stem, words, *more]))
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return whole if len(whole) <= NAME_LENGTH else f"{whole[: NAME_LENGTH - 9]}-{digest}"
