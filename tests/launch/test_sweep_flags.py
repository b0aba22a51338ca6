"""Sweeps from flags, without a file: which runs they have, what they refuse, how they resume."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from configs.sweeps.from_flags import get_grid
from configs.text import TextError
from launch import jobs
from nif_jax.data.schema import ConfigError
from tests.launch.stand_ins import LAUNCH, ROOT, STUB_RUN, run, wait_for

# ml_collections loads config files in a way that Python is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = "configs/nif.py:synthetic,smoke"


def _command(folder, *words):
    paths = [f"--workdir={folder / 'runs'}", f"--output={folder / 'results'}"]
    return [sys.executable, str(LAUNCH / "sweep.py"), *paths, *words]


def _environment():
    return dict(os.environ, PYTHONPATH=str(ROOT))


class TestGrid:
    def test_a_dry_run_shows_every_combination(self, tmp_path):
        words = ["--set", "tsp.weight=0,0.05,0.1", "--set", "ranker.dropout=0.2,0.4"]
        command = _command(tmp_path, f"--config={CONFIG}", *words, "--num_seeds=3", "--dry_run")
        said = run(command, _environment()).stdout.splitlines()
        grid = list(itertools.product(("0", "0.05", "0.1"), ("0.2", "0.4")))
        names = [f"tsp.weight_{w}-ranker.dropout_{d}" for w, d in grid]
        assert said[::2] == [f"{name}: to do" for name in names]
        for (weight, dropout), name, line in zip(grid, names, said[1::2], strict=True):
            assert shlex.split(line)[3:] == [
                f"--config={CONFIG},tsp.weight={weight},ranker.dropout={dropout}",
                f"--workdir={tmp_path / 'runs' / name}",
                "--config.num_seeds=3",
            ]
        assert list(tmp_path.iterdir()) == []

    def test_values_reach_the_configs_in_the_type_of_the_key(self, tmp_path):
        varied = ["ranker.tower=256+128,128", "model=base,amen", "data.history_length=4"]
        name, doc, runs = get_grid("configs/nif.py", varied)
        assert name == "nif-ranker.tower-model-data.history_length"
        assert doc == (
            "How do the results depend on ranker.tower and model and data.history_length?"
        )
        found = jobs.make_jobs(runs, tmp_path)
        keys = ("ranker.tower", "rows", "data.history_length")
        assert [tuple(job.config[key] for key in keys) for job in found] == [
            ([256, 128], ["base"], 4),
            ([256, 128], ["base", "amen"], 4),
            ([128], ["base"], 4),
            ([128], ["base", "amen"], 4),
        ]

    def test_a_path_is_no_path_of_folders(self):
        _, _, runs = get_grid(CONFIG, ["init_from=runs/a,runs/b"])
        assert [run.name for run in runs] == ["init_from_runs_a", "init_from_runs_b"]
        assert runs[0].text == f"{CONFIG},init_from=runs/a"


class TestMistakes:
    @pytest.mark.parametrize(
        ("config", "varied", "message"),
        [
            (CONFIG, [], "no grid; add --set"),
            (CONFIG, ["tsp.weight"], "--set tsp.weight has to be --set <key>=<value>,"),
            (CONFIG, ["tsp.weight=0,,1"], "tsp.weight=0,,1 has to be"),
            (CONFIG, ["=1"], "=1 has to be"),
            (CONFIG, ["tsp.weight=0,1,0"], "has the value 0 twice"),
            (CONFIG, ["seed=0", "tsp.weight=0", "seed=1"], "seed=1: seed is set twice. Give all"),
            (CONFIG, ["model=din,nif", "rows=base"], "rows is set twice"),
            (f"{CONFIG},seed=3", ["seed=0,1"], "seed is set twice"),
            (CONFIG, ["num_seeds=2,3"], "num_seeds is set twice"),
            ("configs/nif.py:synthetic,smok", ["seed=0,1"], "Did you mean 'smoke'"),
        ],
    )
    def test_what_is_no_grid_is_refused(self, config, varied, message):
        with pytest.raises(TextError, match=re.escape(message)):
            get_grid(config, varied, ["--config.num_seeds=1"])

    @pytest.mark.parametrize(
        ("varied", "message"),
        [
            (
                ["tsp.weigth=0,1", "seed=0,1"],
                r"tsp.weigth_0-seed_0 and others: .*no config key 'tsp.weigth'. "
                r"Did you mean 'weight'\?",
            ),
            (["tps.weight=0,1"], r"no config key 'tps.weight'. Did you mean 'tsp'\?"),
            (["tsp.weight=0,much,1"], r"\n  tsp.weight_much: .*'much' has to be a number"),
            (["model=nif,amne"], r"\n  model_amne: .*did you mean 'amen'\?"),
        ],
    )
    def test_unknown_keys_and_values_are_found_before_anything_starts(
        self, varied, message, tmp_path
    ):
        with pytest.raises(ConfigError, match=rf"^nothing was started.(.|\n)*{message}") as caught:
            jobs.check(jobs.make_jobs(get_grid(CONFIG, varied)[2], tmp_path))
        assert len(str(caught.value).splitlines()) == 2  # a mistake is shown once

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "Exactly one of (sweep, config)"),
            (["--config=configs/nif.py", "--sweep=configs/sweeps/main.py"], "Exactly one of"),
            (["--sweep=configs/sweeps/main.py", "--set=seed=0,1"], "error: --set is for --config"),
            (["--config=configs/nif.py", "--set=seed=0,1", "--data=x"], "--data is for --sweep"),
            (["--config=configs/nif.py", "--set=seed=0", "--config.seed=1"], "seed is set twice"),
        ],
    )
    def test_flags_that_exclude_each_other(self, words, message, tmp_path):
        assert message in run(_command(tmp_path, *words), _environment(), code=1).stderr
        assert list(tmp_path.iterdir()) == []


def test_a_grid_that_is_killed_resumes_to_the_table_of_one_that_is_not(tmp_path):
    stub = tmp_path / "stub.py"
    stub.write_text(STUB_RUN)
    words = ["--config=configs/base.py:synthetic", "--set=seed=1,60", "--jobs=1"]
    words.append(f"--command={sys.executable} {stub}")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = _command(killed, *words)
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE)
    log = killed / "runs" / "seed_60" / "log.txt"
    wait_for(lambda: log.exists() and "training" in log.read_text(), seconds=60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and not (killed / "results").exists()
    for folder in (killed, whole):
        (folder / "runs" / "seed_60").mkdir(parents=True, exist_ok=True)
        (folder / "runs" / "seed_60" / "again").touch()  # the stub's checkpoint
    assert "seed_1: finished\n" in run(command, _environment()).stdout
    assert ": finished" not in run(_command(whole, *words), _environment()).stdout
    tables = [
        re.sub("finished .* hours", "", (folder / "results" / "base-synthetic-seed.md").read_text())
        for folder in (killed, whole)
    ]
    assert tables[0] == tables[1]
    assert (
        "\n    python launch/sweep.py --config=configs/base.py:synthetic --set=seed=1,60\n"
        in (tables[0])
    )
    for name, auc in (("seed_1", "0.5100"), ("seed_60", "1.1000")):
        assert re.search(rf"\| {name} .* {auc} ", tables[0])
