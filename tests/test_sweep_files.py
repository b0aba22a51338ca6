"""The sweeps of configs/sweeps: each of their runs has a config that can be built."""

import itertools
import pathlib

import pytest

from configs.sweeps import common
from launch import jobs

# ml_collections loads config files in a way that Python is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(
    set((ROOT / "configs" / "sweeps").glob("[a-z]*.py"))
    - {ROOT / "configs" / "sweeps" / name for name in ("common.py", "from_flags.py")}
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_run_has_a_config_that_can_be_built(path, tmp_path):
    doc, runs = jobs.load_sweep(str(path))
    assert f"python launch/sweep.py --sweep=configs/sweeps/{path.name}" in doc
    jobs.check(jobs.make_jobs(runs, tmp_path))
    names = {(run.data, run.variant) for run in runs}
    references = {(run.data, run.reference) for run in runs if run.reference}
    assert references <= names


def test_a_grid_has_every_data_set_and_variant():
    variants = common.product(
        common.axis("flow.horizon", (1, 2), "T"), {"full": {}, "flat": {"tokenizer.levels": 1}}
    )
    assert variants == {
        "T_1-full": {"flow.horizon": 1},
        "T_1-flat": {"flow.horizon": 1, "tokenizer.levels": 1},
        "T_2-full": {"flow.horizon": 2},
        "T_2-flat": {"flow.horizon": 2, "tokenizer.levels": 1},
    }
    shared = {"flow.horizon": 8, "rows": ("base", "amen")}
    data = ("synthetic", "movielens_100k")
    runs = common.grid("configs/nif.py", data, variants, shared, reference="T_1-full")
    assert [run.name for run in runs] == [
        f"{name}-{variant}" for name, variant in itertools.product(data, variants)
    ]
    assert runs[3].text == (
        "configs/nif.py:synthetic,flow.horizon=2,rows=base+amen,tokenizer.levels=1"
    )
    assert [run.reference for run in runs] == ["", "T_1-full", "T_1-full", "T_1-full"] * 2


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match=r"no data set 'netflix'; movielens_100k"):
        common.Run("netflix", "full", "configs/nif.py", {})
