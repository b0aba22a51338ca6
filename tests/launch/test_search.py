"""Searches from flags: what they choose and prune, what they refuse, and how they resume."""

import functools
import itertools
import json
import os
import re
import signal
import subprocess
import sys

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from configs.sweeps import from_flags
from configs.text import TextError
from launch import jobs, pool
from launch.search import Search
from nif_jax.data.schema import ConfigError
from nif_jax.experiment import search, user_errors
from nif_jax.reports import results
from nif_jax.training.loop import NonFiniteLossError
from tests.launch.stand_ins import LAUNCH, ROOT, run, wait_for

# ml_collections loads config files in a way that Python is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = "configs/base.py:synthetic,smoke"
STUB = """
import json, pathlib, sys, time
words = dict(word[2:].split("=", 1) for word in sys.argv[1:])
workdir, here = pathlib.Path(words["workdir"]), pathlib.Path(__file__).parent
rate = float(words["config"].partition("ranker.dropout=")[2].partition(",")[0])
(workdir / "seed_0").mkdir(parents=True, exist_ok=True)
if rate > 0.45:
    print("error: the loss is nan")
    sys.exit(3)
lines = []
for step in range(3):
    record = {"step": step, "stage": "base", "time": 0.0, "values": {"validation/auc": rate + step}}
    lines.append(json.dumps(record) + "\\n")
    (workdir / "seed_0" / "metrics.jsonl").write_text("".join(lines))
    print("evaluated", flush=True)
    if (here / "pause").exists() and (here / "pause").read_text() == workdir.name:
        time.sleep(60)
(workdir / "metrics.jsonl").write_text("".join('{"seed": 0, ' + line[1:] for line in lines))
(workdir / "results.json").write_text((here / "results.json").read_text())
"""
"""Stands for nif_jax.main: the validation metric is the dropout plus the step."""
RANGES = ["--set=ranker.dropout=0..0.5", "--set=train.learning_rate=1e-4..1e-2:log"]


def _command(folder, *words):
    """A search whose runs are stubs."""
    row = dict.fromkeys(results.ROW_KEYS, 0.5)
    row |= {"model": "base", "seed": 0, "split": "test", "history": "frozen"}
    about = {
        "config": {"train.metric": "auc", "num_seeds": 1, "rows": ["base"]},
        "commit": "c0ffee",
    }
    folder.mkdir(exist_ok=True)
    results.write_results(folder / "results.json", about, [row])
    (folder / "stub.py").write_text(STUB)
    command = [sys.executable, str(LAUNCH / "sweep.py"), f"--config={CONFIG}", *words]
    command += [f"--workdir={folder / 'runs'}", f"--output={folder / 'results'}"]
    return [*command, f"--command={sys.executable} {folder / 'stub.py'}"]


def _environment():
    return dict(os.environ, PYTHONPATH=str(ROOT))


def _table(folder):
    (path,) = (folder / "results").glob("*.md")
    return re.sub("finished .* hours", "", path.read_text())


def test_a_search_that_is_killed_and_then_shared_ends_in_the_table_of_one_that_is_not(tmp_path):
    words = [*RANGES, "--search=12", "--trials_at_once=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(_command(whole, *words, "--jobs=1"), _environment())
    command = _command(killed, *words, "--jobs=1")
    (killed / "pause").write_text("trial_002")
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE)
    log = killed / "runs" / "trial_002" / "log.txt"
    wait_for(lambda: log.exists() and "evaluated" in log.read_text(), seconds=60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and not (killed / "results").exists()
    (killed / "pause").unlink()
    both = [subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    table = _table(whole)
    assert _table(killed) == table
    trials = [line.split() for line in table.splitlines() if line.startswith("| trial_0")]
    attempts = (killed / "runs" / "attempts.jsonl").read_text().splitlines()
    names = [json.loads(line)["run"] for line in attempts]
    assert sorted(names) == sorted([*(f"trial_{n:03d}" for n in range(12)), "trial_002"])
    assert re.search(r"- trial_0\d\d: pruned in base at 0\.\d{4}\n", table)
    assert re.search(r"- trial_0\d\d: diverged\n", table)
    best = next(line for line in trials if line[-2] == "finished")
    assert best[3] == max(t[3] for t in trials if t[-2] == "finished")


def test_a_trial_that_fails_is_reported_and_tried_again(tmp_path):
    command = _command(tmp_path, "--set=ranker.dropout=0..0.4", "--search=2")
    (tmp_path / "results.json").rename(tmp_path / "later")
    said = run(command, _environment(), code=1).stdout
    assert "trial_000 ended with exit code 1 and left no results" in said
    assert "No run has results yet" in said
    (tmp_path / "later").rename(tmp_path / "results.json")
    assert "Gathered 2 of 2 runs" in run(command, _environment()).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set=seed=1,2", "--storage=sqlite:///a"], "are for a search; add --search=<trials>"),
        (
            ["--set=seed=1,2", "--num_seeds=2", "--config.num_seeds=2"],
            "are the same; leave one out",
        ),
    ],
)
def test_flags_that_exclude_each_other(words, message, tmp_path):
    assert message in run(_command(tmp_path, *words), _environment(), code=1).stderr
    assert not (tmp_path / "runs").exists()


def _search(folder, *varied, storage="", config=CONFIG):
    return Search(
        "toy",
        config,
        from_flags.get_space(config, varied),
        folder / "runs",
        functools.partial(jobs.make_jobs, workdir=folder / "runs"),
        total=2,
        at_once=4,
        storage=storage,
        about={},
    )


def test_values_are_checked_before_anything_starts(tmp_path):
    for varied, message in (
        ("ranker.dropout=0..2", r"dropout=2: config.ranker.dropout=2.0 is out of range"),
        ("ranker.dropuot=0..1", r"no config key 'ranker.dropuot'"),
        ("train.batch_size=8,9", r"train.batch_size=9: config.train.batch_size=9 is out of range"),
    ):
        with pytest.raises(ConfigError, match=f"^nothing was started.\n.*{message}"):
            _search(tmp_path, varied)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(TextError, match="which only a search has: add --search=<trials>, or give"):
        from_flags.get_grid(CONFIG, ["ranker.dropout=0..1"])
    with pytest.raises(TextError, match="no grid; add --set"):
        from_flags.get_space(CONFIG, [])


@pytest.mark.parametrize("storage", ["", "sqlite:///{}/study.db"])
def test_a_study_of_another_command_is_refused(storage, tmp_path):
    storage = storage.format(tmp_path)
    first = _search(tmp_path, "ranker.dropout=0..0.4", "seed=1,2", storage=storage)
    task = next(first.tasks(lambda job, **_: job))
    assert task.run.name == "trial_000"
    # The order of --set does not matter, and a trial without a process is found again.
    again = _search(tmp_path, "seed=1,2", "ranker.dropout=0..0.4", storage=storage)
    assert [job.run.text for job in again.jobs()] == [task.run.text]
    assert next(again.tasks(lambda job, **_: job)).run == task.run
    with pytest.raises(ConfigError, match=r"study toy of another command(.|\n)*0.4(.|\n)*0.3"):
        _search(tmp_path, "ranker.dropout=0..0.3", "seed=1,2", storage=storage)


def test_texts_of_ranges():
    space = from_flags.get_space(CONFIG, ["a=0..0.5", "b=1e-4..1E2:log", "c=-3..3", "d=../x,1...2"])
    assert space == {
        "a": ("0", "0.5", False),
        "b": ("1e-4", "1E2", True),
        "c": ("-3", "3", False),
        "d": ["../x", "1...2"],
    }
    for text, message in (("a=1..0", "below the second"), ("a=0..1:log", "above 0")):
        with pytest.raises(TextError, match=message):
            from_flags.get_space(CONFIG, [text])


def test_sweeps_of_other_texts_have_other_names():
    texts = ["", ":smoke", ":smoke,seed=1", ":" + "x" * 300, ":" + "x" * 301]
    names = [from_flags.name(f"configs/nif.py{text}", "seed") for text in texts]
    assert names[:3] == ["nif-seed", "nif-smoke-seed", "nif-smoke-seed=1-seed"]
    assert len(set(names)) == 5 and max(map(len, names)) == from_flags.NAME_LENGTH


def test_a_range_gets_the_type_of_its_key():
    config = {"a": 1.0, "b": 2, "c": [1], "d": "x"}
    ranges = {"a": ("0", "1", False), "b": ("1", "8", True), "d": ["x", "y"]}
    assert search.distributions(ranges, config) == {
        "a": FloatDistribution(0.0, 1.0),
        "b": IntDistribution(1, 8, log=True),
        "d": CategoricalDistribution(["x", "y"]),
    }
    with pytest.raises(ConfigError, match=r"--set b=0.5..2: b is a whole number"):
        search.distributions({"b": ("0.5", "2", False)}, config)
    with pytest.raises(ConfigError, match=r"--set train.metric: trials are compared by it"):
        search.distributions({"train.metric": ["auc", "rank"]}, config)
    with pytest.raises(ConfigError, match=r"--set c=1..2: c is no number; give its values"):
        search.distributions({"c": ("1", "2", False)}, config)


SPACE = {"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(1e-5, 1.0, log=True)}


def _trial(a, value, values):
    return optuna.trial.create_trial(
        params={"a": a, "b": 0.5}, distributions=SPACE, value=value, intermediate_values=values
    )


def test_a_choice_depends_on_number_seed_and_earlier_trials_alone():
    def chosen(earlier, number, seed):
        return search.propose(earlier, number, seed, SPACE)

    assert chosen([], 3, 0) == chosen([], 3, 0)
    three = [chosen([], 3, 0), chosen([], 4, 0), chosen([], 3, 1)]
    assert all(one != other for one, other in itertools.combinations(three, 2))
    assert all(float(f"{x:.4g}") == x for one in three for x in one.values())
    # After many trials, it is near those that were good.
    good = [_trial(a / 40, -abs(a / 40 - 0.25), {}) for a in range(40)]
    bad = [_trial(a / 40, abs(a / 40 - 0.25), {}) for a in range(40)]
    near = [sum(abs(chosen(t, n, 0)["a"] - 0.25) for n in range(20)) for t in (good, bad)]
    assert near[0] < near[1] / 2


def test_below_the_median_of_five_is_pruned():
    earlier = [_trial(0.5, v, {0: v, 1: 2 * v}) for v in (0.1, 0.2, 0.3, 0.4, 0.5)]
    trial = _trial(0.5, 0.0, {})
    assert search.is_pruned(earlier, trial, {0: 0.29})
    assert not search.is_pruned(earlier, trial, {0: 0.3})
    assert search.is_pruned(earlier, trial, {0: 0.3, 1: 0.59})
    assert not search.is_pruned(earlier[1:], trial, {0: 0.0})
    assert not search.is_pruned(earlier, trial, {7: 0.0})


def test_the_lock_of_a_log_tells_whether_a_task_runs(tmp_path):
    assert not pool.is_running(tmp_path / "none")
    task = pool.Task("t", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "t")
    process = pool.start(task)
    assert pool.is_running(task.folder)
    process.kill()
    process.wait()
    assert not pool.is_running(task.folder)


def test_a_diverging_loss_has_a_status_of_its_own(capsys):
    with pytest.raises(SystemExit) as found, user_errors.one_line((NonFiniteLossError,)):
        raise NonFiniteLossError("the loss is nan")
    assert found.value.code == 3
    assert capsys.readouterr().err == "error: the loss is nan\n"
