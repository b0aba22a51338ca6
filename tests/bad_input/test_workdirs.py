"""Workdirs that are damaged, of another run, or in use: what a run and a report make of each."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pandas as pd
import pytest

from nif_jax.config import flatten
from nif_jax.data.files import read_json, write_json
from nif_jax.data.preparation import identity
from nif_jax.experiment import lock, pipeline, runner
from nif_jax.metrics.records import read_metrics
from nif_jax.reports import page, workdirs
from nif_jax.training import checkpoint
from tests.bad_input.workdir_cases import (
    STAGES,
    array_file,
    cut,
    flip,
    flip_digit,
    get_config,
    measured,
    meta_file,
    outcome,
    remove,
    step_folder,
    write_content,
    write_tables,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run: its folder of tables, config, workdir and results. Tests work on copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIF_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("tables")
        write_tables(folder)
        config, workdir = get_config(folder), folder / "run"
        runner.run(config, workdir, "train")
        yield types.SimpleNamespace(
            folder=folder, config=config, workdir=workdir, results=measured(workdir)
        )


@pytest.fixture
def workdir(made, tmp_path):
    """A copy of the finished workdir."""
    return shutil.copytree(made.workdir, tmp_path / "run")


def _unfinished(name, damage):
    """Damage to a file or folder of a stage; results.json is gone, so that stages are read."""

    def apply(workdir):
        remove(workdir / "results.json")
        damage(workdir / "seed_0" / name)

    return apply


def _in(kind, damage, stage="base"):
    return _unfinished(stage, lambda folder: damage(step_folder(folder / kind)))


# What is damaged -> how, and what the warning names ("" for no warning).
REPAIRED = {
    "results cut": (lambda w: cut(w / "results.json"), "results.json is damaged"),
    "results digit": (lambda w: flip_digit(w / "results.json", '"auc":'), "results.json is"),
    "results gone": (lambda w: remove(w / "results.json"), ""),
    "results empty": (lambda w: (w / "results.json").write_bytes(b""), "results.json is damaged"),
    "config cut": (lambda w: cut(w / "config.json"), "config.json is damaged"),
    "config digit": (lambda w: flip_digit(w / "config.json", '"seed":'), "config.json is damaged"),
    "config gone": (lambda w: remove(w / "config.json"), "config.json is missing"),
    "data cut": (lambda w: cut(w / "data.json"), "data.json is damaged"),
    "data digit": (lambda w: flip(w / "data.json"), "data.json is damaged"),
    "data gone": (lambda w: remove(w / "data.json"), "data.json is missing"),
    "metrics cut": (lambda w: cut(w / "metrics.jsonl"), "run/metrics.jsonl has changed"),
    "metrics digit": (lambda w: flip_digit(w / "metrics.jsonl", '"step":'), "metrics.jsonl has"),
    "metrics gone": (lambda w: remove(w / "metrics.jsonl"), "run/metrics.jsonl is missing"),
    "scores cut": (lambda w: cut(w / "seed_0/scores.npz"), "seed_0/scores.npz has changed"),
    "scores bit": (lambda w: flip(w / "seed_0/scores.npz"), "seed_0/scores.npz has changed"),
    "scores gone": (lambda w: remove(w / "seed_0/scores.npz"), "seed_0/scores.npz is missing"),
    "plot bit": (lambda w: flip(w / "plots/reliability.png"), "reliability.png has changed"),
    "plot gone": (lambda w: remove(w / "plots/reliability.png"), "reliability.png is missing"),
    "page cut": (lambda w: cut(w / "report.html"), ""),
    "seed metrics line": (
        _unfinished("metrics.jsonl", lambda file: flip(file, 0)), "metrics.jsonl, line 1: dropped"),
    "seed metrics gone": (_unfinished("metrics.jsonl", remove), "metrics.jsonl is missing"),
    "best array bit": (_in("best", lambda p: flip(array_file(p))), r"base/best/\d+ is damaged"),
    "best meta bit": (_in("best", lambda p: flip(meta_file(p))), r"base/best/\d+ is damaged"),
    "best meta cut": (_in("best", lambda p: cut(meta_file(p))), r"base/best/\d+ is damaged"),
    "last array bit": (_in("last", lambda p: flip(array_file(p))), r"base/last/\d+ is damaged"),
    "last meta bit": (_in("last", lambda p: flip(meta_file(p))), r"base/last/\d+ is damaged"),
    "later stage bit": (_in("best", lambda p: flip(array_file(p)), "lr"), r"lr/best/\d+ is damag"),
    "best step gone": (_in("best", remove), "base/best is damaged .it has step None"),
    "last step gone": (_in("last", remove), "base/last is damaged .it is empty, but best has step"),
    "best gone": (_unfinished("base/best", remove), "base/best is damaged"),
    "last gone": (_unfinished("base/last", remove), "base/last is damaged"),
    "tree gone": (_in("best", lambda p: remove(p / "tree")), r"base/best/\d+ is damaged"),
    "half-written": (
        _unfinished("base/last", lambda p: (p / "99.orbax-checkpoint-tmp").mkdir()), ""),
    "best is a file": (
        _unfinished("base/best", lambda p: (remove(p), p.write_text(""))), "base/best is damaged"),
    "stage gone": (_unfinished("base", remove), ""),
    "seed gone": (_unfinished("", remove), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", REPAIRED)
def test_training_repairs_what_is_damaged_with_one_warning_and_the_same_results(
    kind, made, workdir, caplog, capsys
):
    damage, warning = REPAIRED[kind]
    damage(workdir)
    runner.run(made.config, workdir, "train")
    assert measured(workdir) == made.results
    assert "| base " in capsys.readouterr().out
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    named = [line for line in warnings if warning and re.search(warning, line)]
    assert len(named) <= 2 and bool(named) == bool(warning), warnings
    # Nothing that can be repaired is left: the same command now prints, and a report can be made.
    assert workdirs.is_finished(workdir, flatten(made.config.to_dict()))
    assert page.write_report(workdir).read_bytes().startswith(b"<!DOCTYPE")
    workdirs.read(workdir).scores()
    if "trained again" in "".join(warnings):  # what was damaged is kept
        assert any(workdir.glob("seed_0/*/damaged/1/*"))


# What is damaged -> how, and what --mode=evaluate does: an error, or "" for the same results.
EVALUATED = {
    "results cut": "",
    "scores bit": "",
    "metrics gone": "",
    "plot bit": "",
    "config cut": r"config\.json is damaged .*--mode=train",
    "data digit": r"data\.json is damaged .*--mode=train",
    "best array bit": r"base/best/\d+ is damaged .*--mode=train",
    "last meta bit": r"base/last/\d+ is damaged .*--mode=train",
    "best step gone": r"base/best is damaged .*--mode=train",
    "last step gone": r"base holds no finished stage; run with --mode=train",
    "stage gone": r"base holds no finished stage; run with --mode=train",
    "seed metrics line": "",
}


@pytest.mark.parametrize("kind", EVALUATED)
def test_evaluation_gives_the_same_results_or_names_the_damage_and_its_remedy(kind, made, workdir):
    REPAIRED[kind][0](workdir)
    if EVALUATED[kind]:
        with pytest.raises(runner.USER_ERRORS, match=EVALUATED[kind]):
            runner.run(made.config, workdir, "evaluate")
        runner.run(made.config, workdir, "train")  # the remedy
    runner.run(made.config, workdir, "evaluate")
    assert measured(workdir) == made.results


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("results digit", "results.json"),
        ("results cut", "results.json"),
        ("metrics digit", "metrics.jsonl"),
        ("metrics gone", "metrics.jsonl"),
        ("plot bit", "reliability.png"),
        ("scores bit", "scores.npz"),
    ],
)
def test_a_report_names_the_damaged_file_and_the_remedy(kind, file, made, workdir):
    REPAIRED[kind][0](workdir)
    with pytest.raises(workdirs.WorkdirError, match=rf"{file} .*Give the command of that run"):
        workdirs.read(workdir).scores()
    runner.run(made.config, workdir, "train")
    workdirs.read(workdir).scores()


def test_a_damaged_ab_test_is_named(workdir):
    write_json(workdir / "ab.json", {"arms": [{"ctr": 0.125}]})
    flip_digit(workdir / "ab.json", '"ctr":')
    with pytest.raises(workdirs.WorkdirError, match=r"ab\.json is damaged .*--mode=ab"):
        workdirs.read(workdir)


def test_results_of_an_earlier_version_are_reported_with_a_warning(workdir, caplog):
    content = json.loads((workdir / "results.json").read_text())
    del content["checksum"], content["files"]
    (workdir / "results.json").write_text(json.dumps(content))
    assert page.write_report(workdir).exists()
    assert "results.json has no checksum" in caplog.text


def _edit(name, change):
    """A change to a table."""

    def apply(folder):
        table = pd.read_csv(folder / name)
        table[change] = table[change].iloc[::-1].to_numpy()
        table.to_csv(folder / name, index=False)

    return apply


CHANGED = {
    "labels": (_edit("events.csv", "label"), "the events are not those"),
    "items": (_edit("items.csv", "category"), "the items table is not the one"),
    "titles": (_edit("items.csv", "title"), "the items table is not the one"),
    "users": (_edit("users.csv", "age"), "the users table is not the one"),
    "content": (lambda f: write_content(f, seed=1), r"the file of config\.content\.path is not"),
}


@pytest.mark.parametrize("mode", ["train", "evaluate", "predict", "ab"])
@pytest.mark.parametrize("kind", CHANGED)
def test_changed_inputs_are_refused_before_anything_is_printed(
    kind, mode, made, workdir, capsys, tables
):
    change, message = CHANGED[kind]
    change(tables)
    with pytest.raises(runner.ConfigError, match=f"{message} .*that .*run was trained on"):
        runner.run(made.config, workdir, mode)
    assert capsys.readouterr().out == ""


@pytest.fixture
def tables(made):
    """The folder of tables; what a test changes is put back."""
    yield made.folder
    write_tables(made.folder)


@pytest.mark.parametrize("damage", ["data gone", "data digit"])
def test_changed_inputs_are_refused_without_data_json_too(damage, made, workdir, tables):
    CHANGED["items"][0](tables)
    REPAIRED[damage][0](workdir)
    with pytest.raises(runner.CheckpointError, match="items table is not the one that stage base"):
        runner.run(made.config, workdir, "train")


def test_another_config_is_refused_without_config_json_too(made, workdir):
    remove(workdir / "config.json")
    other = get_config(made.folder, ",ranker.dropout=0.25")
    with pytest.raises(runner.CheckpointError, match=r"another config(.|\n)*dropout: 0\.\d+ -> 0"):
        runner.run(other, workdir, "train")


def test_data_json_is_what_identifies_the_data(made):
    config = flatten(made.config.to_dict())
    found = identity.load_identity(config)
    assert found == read_json(made.workdir / "data.json")
    assert found["sha256"].keys() == {"events", "items", "users", "content"}


def test_workdirs_of_earlier_versions_are_refused(made, workdir):
    (workdir / "data.json").write_text('{"name": "events", "sha256": "0123"}')
    with pytest.raises(runner.ConfigError, match=r"data\.json is from an earlier version.*another"):
        runner.run(made.config, workdir, "train")
    remove(workdir)  # the remedy
    runner.run(made.config, workdir, "train")
    assert measured(workdir) == made.results


def test_stages_of_another_state_of_an_earlier_stage_are_refused(made, workdir, monkeypatch):
    remove(workdir / "results.json")
    remove(workdir / "seed_0" / "base")
    initial = pipeline.initial_state

    def elsewhere(run, built, source=None):  # hardware that rounds in another way
        params, variables = initial(run, built, source)
        return jax.tree.map(lambda x: np.asarray(x * 1.001, x.dtype), params), variables

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "initial_state", elsewhere)
        message = r"stage lr in .*lr was trained from another stage base .*Delete (\S*lr):"
        with pytest.raises(runner.CheckpointError, match=message) as caught:
            runner.run(made.config, workdir, "train")
        remove(workdir / "seed_0" / "lr")  # the remedy
        assert str(workdir / "seed_0" / "lr") in str(caught.value)
        runner.run(made.config, workdir, "train")
    runner.run(made.config, workdir, "evaluate")


def test_a_workdir_that_is_a_file_or_below_one(made, tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/run"):
        with pytest.raises(OSError, match=f"{place} cannot be written"):
            runner.run(made.config, tmp_path / place, "train")
    assert (tmp_path / "file").read_text() == ""


HOLDER = """
import pathlib, sys, time
from nif_jax.experiment import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_workdir_in_use_is_refused_until_its_holder_ends_however_it_ends(made, workdir):
    remove(workdir / "results.json")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for mode in ("train", "evaluate", "predict"):
            message = rf"run is in use by another run .process {holder.pid} on"
            with pytest.raises(workdirs.WorkdirError, match=message):
                runner.run(made.config, workdir, mode)
        before = (workdir / "seed_0" / "metrics.jsonl").read_bytes()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (workdir / lock.HOLDER_FILE).exists()  # left behind, and no hindrance
    runner.run(made.config, workdir, "train")
    assert measured(workdir) == made.results
    assert (workdir / "seed_0" / "metrics.jsonl").read_bytes() == before


def test_a_write_that_fails_names_the_folder_and_the_run_resumes(made, tmp_path, monkeypatch):
    workdir, save = tmp_path / "run", checkpoint.ocp.CheckpointManager.save

    def full(self, step, *args, **kwargs):
        if "lr" in str(self.directory):
            raise OSError(28, "No space left on device")
        return save(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
        message = r"lr/best: step \d+ could not be written .*No space left.*free some space"
        with pytest.raises(runner.CheckpointError, match=message):
            runner.run(made.config, workdir, "train")
    assert checkpoint.is_finished(workdir / "seed_0" / "base")
    runner.run(made.config, workdir, "train")
    assert measured(workdir) == made.results


SMALL_FILES = """
import pathlib, resource, sys
from nif_jax.experiment import runner
from tests.bad_input.workdir_cases import get_config
folder, workdir, size = map(pathlib.Path, sys.argv[1:])
config = get_config(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(str(size)), resource.RLIM_INFINITY))
try:
    runner.run(config, workdir, "train")
except (*runner.USER_ERRORS, OSError) as error:
    sys.exit(f"error: {error}")
"""


def _run_with_largest_file(size, folder, workdir):
    """A process of its own: XLA's flags are read once in a process, and tests before may have set
    others here, with which the bits of results differ."""
    # A program that is cut would be found by the tests that share the folder of programs.
    keep = str(size == resource.RLIM_INFINITY).lower()
    return subprocess.run(
        [sys.executable, "-c", SMALL_FILES, str(folder), str(workdir), str(size)],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": keep},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_disk_that_is_full_names_the_file_and_the_run_resumes(made, tmp_path):
    unlimited = resource.RLIM_INFINITY
    assert not _run_with_largest_file(unlimited, made.folder, tmp_path / "whole").returncode
    expected = measured(tmp_path / "whole")
    workdir = tmp_path / "run"
    for size in (400, 20_000):  # the config, a checkpoint
        done = _run_with_largest_file(size, made.folder, workdir)
        # Threads of TensorStore may write after it.
        (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
        assert done.returncode == 1
        assert str(workdir) in error and "run the same command again" in error
    assert not _run_with_largest_file(unlimited, made.folder, workdir).returncode
    assert measured(workdir) == expected


def test_flipped_bits_change_no_results(made, tmp_path, workdir):
    rng = np.random.default_rng(0)
    files = [p for p in workdir.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    sizes = np.array([path.stat().st_size for path in files])
    for number, path in enumerate(rng.choice(files, 8, p=sizes / sizes.sum())):
        damaged = shutil.copytree(made.workdir, tmp_path / str(number))
        flip(damaged / path.relative_to(workdir), int(rng.integers(path.stat().st_size)))
        for mode in ("train", "evaluate"):
            outcome(made.config, damaged, mode, made.results)


def test_the_records_of_a_run_are_those_of_its_stages(made):
    assert {r["stage"] for r in read_metrics(made.workdir / "metrics.jsonl")} == set(STAGES)
