"""Sweeps without a file: every combination of the values that flags give to keys of a config.

    python launch/sweep.py --config=configs/nif.py:synthetic,smoke --num_seeds=3 \\
        --set tsp.weight=0,0.05,0.1 --set ranker.dropout=0.2,0.4

Commas separate values; a value that is a tuple has + between its parts, as in a config's text:
--set ranker.tower=256+128,128.
"""

import pathlib
from collections.abc import Sequence

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


def get_grid(
    config: str, varied: Sequence[str], overrides: Sequence[str] = ()
) -> tuple[str, str, list[common.Run]]:
    """Name, docstring and runs of the grid that --config and each --set describe.

    Args:
      config: config file and text, as --config takes it.
      varied: "<key>=<value>,<value>,..."; the first varies slowest.
      overrides: --config.<key>=<value>, for all runs.

    Raises:
      TextError: no key is varied, one has no values or equal values, or is set elsewhere too.
        Whether the keys exist and the values fit is checked when the configs are built.
    """
    if not varied:
        raise text.TextError("--config has no grid; add --set <key>=<value>,<value>,...")
    file, _, rest = config.partition(":")
    shared = (word.removeprefix("--config.").partition("=")[0] for word in overrides)
    taken = {*shared, *text.parse(rest)[3]}
    axes = {}
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
        axes[key] = common.axis(key, values, key)
    variants = common.product(*axes.values())
    name = "-".join([pathlib.Path(file).stem, *axes])
    doc = f"How do the results depend on {' and '.join(axes)}?"
    return name, doc, [GridRun("", variant, config, variants[variant]) for variant in variants]
