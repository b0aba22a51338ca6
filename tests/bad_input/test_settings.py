"""A setting or flag that cannot be used ends in one line with key, value and what it may be."""

import copy
import errno
import math
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest
from absl import flags
from ml_collections import config_flags

from configs import base, genci, hybrid, nif
from configs.datasets import PRESETS
from configs.text import DATASETS
from nif_jax import main
from nif_jax.config import flatten
from nif_jax.experiment import flag_errors, pipeline, runner, user_errors
from nif_jax.experiment.setting_kinds import Choice, Kind, Number, Rate, Rules, Several
from nif_jax.experiment.settings import SETTINGS, require_valid_settings
from nif_jax.stages import step_counts
from nif_jax.variants import VARIANTS, variant_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = {"base": base, "nif": nif, "genci": genci, "hybrid": hybrid}
TINY = "synthetic,smoke,source.num_users=20,source.num_items=20,source.events_per_user=9.0"
NAN = float("nan")

BAD = [
    ({"train.learning_rate": -1.0}, "config.train.learning_rate=-1.0 .*: a positive number"),
    ({"train.learning_rate": 0.0}, "config.train.learning_rate=0.0 .*: a positive number"),
    ({"train.learning_rate": NAN}, "config.train.learning_rate=nan .*: a positive number"),
    ({"pretrain.learning_rate": math.inf}, "config.pretrain.learning_rate=inf"),
    ({"train.epochs": -1.0}, "config.train.epochs=-1.0 .*: a number, 0 or more"),
    ({"train.eval_epochs": 0.0}, "config.train.eval_epochs=0.0 .*: a positive number"),
    ({"ranker.dropout": 2.0}, "config.ranker.dropout=2.0 .*at least 1/256 and at most 255/256"),
    ({"ranker.id_dropout": 1.5}, "id_dropout=1.5 .*0, 1 or a number of at least 1/256"),
    ({"eval.resamples": 0}, "config.eval.resamples=0 .*: a whole number, 1 or more"),
    ({"ab.resamples": 0}, "config.ab.resamples=0 .*: a whole number, 1 or more"),
    ({"train.batch_size": 0}, "config.train.batch_size=0 .*: an even number, 2 or more"),
    ({"train.batch_size": -8}, "config.train.batch_size=-8 .*: an even number, 2 or more"),
    ({"pretrain.batch_size": 3}, "config.pretrain.batch_size=3 .*: an even number, 2 or more"),
    ({"num_seeds": 0}, "config.num_seeds=0 .*: a whole number, 1 or more"),
    ({"seed": -1}, "config.seed=-1 .*: a whole number, at least 0 and at most 2147483647"),
    ({"data.history_length": 0}, "config.data.history_length=0 .*: a whole number, 1 or more"),
    ({"data.history_length": -3}, "config.data.history_length=-3 .*: a whole number, 1 or more"),
    ({"ranker.dim": 0}, "config.ranker.dim=0 .*: a whole number, 1 or more"),
    ({"generator.dim": 33}, "generator.dim=33 has to be a multiple of 2 x config.generator.heads"),
    ({"generator.layers": 0}, "config.generator.layers=0 .*: a whole number, 1 or more"),
    ({"train.steps_per_dispatch": 0}, "config.train.steps_per_dispatch=0 .*, 1 or more"),
    ({"train.microbatch": -5}, "config.train.microbatch=-5 .*: a whole number, 0 or more"),
    ({"rows": ()}, r"config.rows=\(\) .*: one or more variants, such as --config.rows=base"),
    ({"rows": ("",)}, r"config.rows=\(''?,\) .*: one or more variants"),
    ({"rows": ("base,nif",)}, "Repeat the flag for several: --config.rows=base --config.row"),
    ({"rows": ("base", "amne")}, "config.rows='amne' is none of .*did you mean 'amen'"),
    ({"data.label_share": 0.0}, "config.data.label_share=0.0 .*above 0 and at most 1"),
    ({"data.train_share": 0.95}, "train_share=0.95 and config.data.validation_share=0.1 leave no"),
    ({"data.device_bytes": -1}, "config.data.device_bytes=-1 .*: a whole number, 0 or more"),
    ({"data.split": "temporal"}, "config.data.split='temporal' is none of temporal_user"),
    ({"data.negatives": -1}, "config.data.negatives=-1 .*: a whole number, 0 or more"),
    ({"tokenizer.codes": 0}, "config.tokenizer.codes=0 .*: a whole number, 2 or more"),
    ({"tokenizer.levels": 0}, "config.tokenizer.levels=0 .*: a whole number, 1 or more"),
    ({"tokenizer.form": "emma"}, "did you mean 'ema'"),
    ({"flow.horizon": 0}, "config.flow.horizon=0 .*: a whole number, 1 or more"),
    ({"flow.cache_dtype": "bf16"}, "cache_dtype='bf16' is none of float32, bfloat16"),
    ({"flow.cache_bytes": -1}, "config.flow.cache_bytes=-1 .*: a whole number, 0 or more"),
    ({"flow.cross_fit": 1, "flow.label_head": "input"}, "cross_fit=1 has to be 0 .off. or 2 folds"),
    ({"flow_loss.negatives": "uniform", "flow_loss.uniform": 0}, "uniform=0 leaves .*give 1"),
    (
        {"flow.generator_item_emb": "init", "generator.dim": 16},
        "generator.dim=16 .* have to be equal",
    ),
    ({"ab.reference": "din"}, "config.ab.reference='din' is none of base, nif, genci, hybrid"),
    ({"eval.beams": 0}, "config.eval.beams=0 .*: a whole number, 1 or more"),
    ({"genci.refresh": 0}, "config.genci.refresh=0 .*: a whole number, 1 or more"),
    ({"genci.delta_fade": 1.5}, "config.genci.delta_fade=1.5 .*at least 0 and at most 1"),
    ({"cohorts.levels": 4}, "cohorts.levels=4 is more than config.tokenizer.levels=3; 0 takes"),
    ({"cohorts.heads": 5}, "ranker.dim=32 has to be a multiple of config.cohorts.heads=5"),
    ({"ranker.align_heads": 3}, "dim=32 has to be a multiple of config.ranker.align_heads=3"),
    ({"intent.head_dim": 3}, "config.intent.head_dim=3 has to be even"),
    ({"intent.heads": 5}, "intent.dim=32 has to be a multiple of 2 x config.intent.heads=5"),
    ({"rows": ("sasrec",), "baselines.encoder_heads": 5}, "multiple of 2 x config.baselines.enc"),
    ({"ranker.attention": ()}, r"config.ranker.attention=\(\) .*: a tuple of 1 or more values"),
    ({"ranker.tower": ()}, r"config.ranker.tower=\(\) .*: a tuple of 1 or more values"),
    ({"ranker.tower": (64, 0)}, r"config.ranker.tower=\(64, 0\) .*each a whole number, 1 or more"),
    ({"tsp.max_events": 2, "rows": ("tsp",)}, "tsp.max_events=2 is below config.tsp.min_events=5"),
    ({"source.drift": math.inf}, "config.source.drift=inf .*: a finite number"),
    ({"train.metric": "logloss"}, "config.train.metric='logloss' is none of auc, gauc"),
]


def make_config(changes, text=TINY):
    config = hybrid.get_config(f"{text},rows=base+nif+genci+hybrid")
    config.update_from_flattened_dict(changes)
    return config


def assert_one_line(message):
    assert "Traceback" not in message and "\n" not in message.strip(), message


def never(*_, **__):
    raise AssertionError("data was loaded, or a stage trained, before the bad setting was found")


@pytest.mark.parametrize(("changes", "message"), BAD, ids=str)
def test_a_bad_setting_is_refused_before_anything_is_read_or_written(
    changes, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(runner.context, "load_dataset", never)
    with pytest.raises(runner.ConfigError, match=message) as found:
        runner.run(make_config(changes), tmp_path / "run", "train")
    assert_one_line(str(found.value))
    assert not (tmp_path / "run").exists()


def all_configs():
    texts = [f"{data}{smoke}" for data in (*DATASETS, *PRESETS) for smoke in ("", ",smoke")]
    return [config.get_config(text) for config in CONFIGS.values() for text in texts]


def test_every_key_is_in_the_table_and_every_default_is_valid():
    keys = set()
    for config in all_configs():
        require_valid_settings(config)
        keys |= set(flatten(config.to_dict()))
    # Sources check their own options: text is free, numbers have their ranges there.
    assert {key for key in keys if not key.startswith("source.")} == set(SETTINGS)


def test_every_row_has_valid_settings():
    config = hybrid.get_config(f"{TINY},rows={'+'.join(VARIANTS)}")
    require_valid_settings(config)
    for row in VARIANTS:
        require_valid_settings(variant_config(config, row))


def outside(setting):
    """Values just outside of what a setting may be."""
    if isinstance(setting, Several):
        return [(), (*(1,), *outside(setting.each)[:1])] if setting.fewest else [(0,)]
    if isinstance(setting, Choice):
        return ["nothing", "", 1]
    if isinstance(setting, Kind):
        return [1 if setting.kind is str else "True"]
    values = [NAN, math.inf, -math.inf, "x"]
    if isinstance(setting, Rate):
        return [*values, 1 / 257, 256 / 257, *([] if setting.one else [1.0]), 1.1, -0.1]
    if isinstance(setting, Rules):
        return ["items", (("items",),), (("(", ()),), (("items", ("model", None)),)]
    assert isinstance(setting, Number)
    if setting.whole or setting.even:
        values.append(True)  # which a config makes 1.0 where a number is meant
        values += [setting.low - 1, setting.low + 0.5] + [setting.low + 1] * setting.even
        return values + [setting.high + 1] * (setting.high < math.inf)
    values.append(setting.low if setting.open_low else math.nextafter(setting.low, -math.inf))
    if setting.high < math.inf:
        values.append(setting.high if setting.open_high else math.nextafter(setting.high, math.inf))
    return values


@pytest.mark.parametrize("key", SETTINGS)
def test_values_just_outside_are_refused_with_key_value_and_range(key):
    *sections, name = key.split(".")
    for value in outside(SETTINGS[key]):
        config = make_config({}).copy_and_resolve_references()
        section = config[sections[0]] if sections else config
        with section.ignore_type(), section.unlocked():
            section[name] = value
        with pytest.raises(runner.ConfigError) as found:
            require_valid_settings(config)
        said = str(found.value)
        assert_one_line(said)
        assert f"config.{key}=" in said
        if key != "rows":  # which names the row
            assert repr(value) in said
            words = SETTINGS[key].description.removeprefix("one of ")
            assert words in said


def test_values_at_the_bounds_are_accepted():
    for setting in (s for s in SETTINGS.values() if isinstance(s, Number)):
        assert setting.open_low or setting.accepts(setting.low)
        assert setting.high == math.inf or setting.open_high or setting.accepts(setting.high)


# What needs the data or the devices, before training.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.label_share": 1e-4}, r"config.data.label_share=0.0001 leaves none of the \d+ lab"),
        ({"pretrain.microbatch": 6}, "config.pretrain.microbatch=6 has to be even and to divide"),
        ({"tokenize.microbatch": 6}, "config.tokenize.microbatch=6 has to be even and to divide"),
        ({"tokenizer.codes": 256}, "codes=256 is more than the 20 items"),
        ({"genci.beams": 50}, "beams=50 is more than the 20 items"),
        ({"source.noise": 0.0}, "noise=0.0 is out of range, at least 1e-06"),
        ({"source.click_rate": NAN}, "config.source.click_rate=nan is out of range: a finite"),
        ({"source.dim": 3}, "dim=3; choose 'shared' and an even dim, or 'own'"),
        ({"data.label_scenes": "scene9"}, "config.data.label_scenes='scene9' is none of scene0"),
        ({"init_from": "no_such_run"}, "there is no no_such_run/seed_0"),
    ],
    ids=str,
)
def test_what_the_data_does_not_allow_is_refused_before_training(
    changes, message, tmp_path, monkeypatch
):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pipeline, "train_and_evaluate", never)
    config = make_config({"tokenizer.codes": 8} | changes)
    with pytest.raises(runner.USER_ERRORS, match=message) as found:
        runner.run(config, tmp_path / "run", "train")
    assert_one_line(str(found.value))
    assert not (tmp_path / "run" / "config.json").exists()  # the folder belongs to no run yet


def test_the_label_share_that_the_message_names_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pipeline, "train_and_evaluate", never)
    config = base.get_config(f"{TINY},data.label_share=0.0001")
    with pytest.raises(runner.ConfigError) as found:
        runner.run(config, tmp_path / "run", "train")
    config.data.label_share = float(re.search(r"at least ([\d.]+),", str(found.value)).group(1))
    with pytest.raises(AssertionError, match="trained"):
        runner.run(config, tmp_path / "run", "train")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "train.epochs=0.01,train.min_steps=96,train.steps_per_dispatch=4",
            "base: train.epochs=0.01 is 0.48 steps; train.min_steps=96 makes it 96 steps "
            "(2 epochs), and train.min_steps=0 turns that off.",
        ),
        (
            "train.epochs=0.125,train.min_steps=0",
            "base: train.epochs=0.125 is 6 steps; train.steps_per_dispatch=4 rounds it up to 8 "
            "steps.",
        ),
        (
            "train.epochs=0,train.min_steps=0",
            "base: train.epochs=0 is 0 steps; train.steps_per_dispatch=4 rounds it up to 4 steps.",
        ),
        ("train.epochs=2,train.min_steps=96", None),
        ("train.epochs=0,train.learning_rate=0", None),
    ],
)
def test_steps_beyond_the_epochs_are_logged(text, expected, monkeypatch):
    lines = []
    monkeypatch.setattr(step_counts.logging, "info", lambda line, *a: lines.append(line % a))
    run = types.SimpleNamespace(train=True, config=base.get_config(f"synthetic,{text}"))
    plan = types.SimpleNamespace(steps_per_epoch=48)
    section = step_counts.with_min_steps(run.config.train, plan.steps_per_epoch)
    step_counts.log_steps(run, "base", "train", section, plan)
    assert lines == ([expected] if expected else [])


# The command line.

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"  # ml_collections loads config files by it
)
NIF = "--config=configs/nif.py:synthetic,smoke"


@pytest.fixture
def parse(monkeypatch):
    """(arguments) -> FlagValues, parsed as nif_jax.main does, without its global flags."""
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        values, argv = flags.FlagValues(), ["main", *arguments]
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        for flag in main.FLAGS.flags_by_module_dict()["nif_jax.main"]:
            if flag.name != "config":
                values[flag.name] = copy.deepcopy(flag)
        flag_errors.parse(argv, values)
        return values

    return run


BAD_FLAGS = [
    ([NIF, "--config.train.batch_size=many"], "--config.train.batch_size='many' has to be a whole"),
    ([NIF, "--config.train.batch_size", "many"], "batch_size='many' has to be a whole number"),
    ([NIF, "--config.train.batch_size=1.5"], "batch_size='1.5' has to be a whole number"),
    ([NIF, "--config.train.learning_rate=x"], "learning_rate='x' has to be a number"),
    ([NIF, "--config.flow.cache=maybe"], "--config.flow.cache='maybe' has to be True or False"),
    ([NIF, "--config.train=1"], "--config.train='1' names a section; set its keys"),
    ([NIF, "--config.train.batch_size"], "--config.train.batch_size has no value"),
    ([NIF, "--seed=3"], "--variant and --seed go with --mode=score, recommend or export"),
    ([NIF, "--mode=evaluate", "--k=3"], "--k and --exclude_seen go with --mode=recommend"),
    ([NIF, "--output=runs/a"], "--output goes with --mode=report, score, recommend or export"),
    ([NIF, "--features"], "--features and --items go with --mode=score"),
    ([NIF, "--onnx"], "--onnx goes with --mode=export"),
    ([NIF, "--left=a"], "--mode=parity needs --left and --right, no --workdir"),
    (["--mode=parity", "--left=a"], "--mode=parity needs --left and --right, no --workdir"),
    ([NIF, "--input=a"], "--input goes with --mode=score, recommend or parity"),
    ([NIF, "--num_processes=two"], "--num_processes='two' has to be a whole number"),
    ([NIF, "--mode=evalute"], "--mode='evalute' has to be one of train.*did you mean 'evaluate'"),
    ([NIF, "--wrkdir=1"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
    ([NIF, "--config.tsp.wieght=1"], "no such key .*'wieght'. Did you mean \"weight\""),
    (["--config=configs/nfi.py"], "nfi.py: there is no such file. Did you mean configs/nif"),
    (["--config=configs"], "--config=configs is a folder; give a file of it .*nif.py"),
    (["--config="], "--config has no file"),
    (["--config=configs/nif.py:netflix"], "--config: 'netflix' is no data set or word"),
    (["--config=configs/nif.py:num_seeds=two"], "num_seeds='two' has to be a whole number"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_FLAGS, ids=str)
def test_a_bad_flag_is_refused_in_one_line(arguments, message, parse):
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as found:
        parse(*arguments)
    assert_one_line(found.value.code)


def test_an_integer_may_be_given_for_a_number(parse):
    found = parse(NIF, "--config.train.learning_rate=1").config.train.learning_rate
    assert found == 1.0 and isinstance(found, float)


def test_flags_of_rows(parse):
    assert parse(NIF, "--config.rows=base", "--config.rows=nif").config.rows == ("base", "nif")
    assert parse(NIF, "--config.rows=('base', 'nif')").config.rows == ("base", "nif")
    for flag in ("--config.rows=", "--config.rows=()"):
        with pytest.raises(runner.ConfigError, match="one or more variants"):
            require_valid_settings(parse(NIF, flag).config)
    with pytest.raises(runner.ConfigError, match=r"is no variant\. Repeat the flag") as found:
        require_valid_settings(parse(NIF, "--config.rows=base,nif").config)
    remedy = str(found.value).partition(": ")[2].split()
    assert parse(NIF, *remedy).config.rows == ("base", "nif")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(text=''):\n    x = = 1\n", r"mine.py, line 2: invalid syntax"),
        ("x = 1\n", r"has no get_config\(text\) function"),
        ("def get_config():\n    pass\n", "takes 0 positional arguments but 1 was given"),
    ],
)
def test_a_file_that_is_no_config_gets_one_line(content, message, tmp_path, parse, monkeypatch):
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(SystemExit, match=message) as found:
        parse(f"--config={file}:smoke")
    assert_one_line(found.value.code)


@pytest.mark.parametrize("body", ["int('x')", "{}['nothing']", "open('no_such_file')", "[].add"])
def test_a_bug_in_a_config_file_is_no_one_liner(body, tmp_path, parse):
    file = tmp_path / "mine.py"
    file.write_text(f"def get_config(text=''):\n    return {body}\n")
    with pytest.raises((flags.Error, LookupError, OSError, AttributeError)):
        parse(f"--config={file}")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "run/a"), "on device: run/a. Free some"),
        (PermissionError(errno.EACCES, "Permission denied", "run"), "denied: run. Give folders"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "file/run"), "directory: file/run. "),
        (OSError("connection\nlost"), "error: connection lost"),
        (MemoryError(), "error: out of memory; lower --config.train.batch_size"),
        (runner.ConfigError("config.a=1"), "error: config.a=1"),
    ],
)
def test_errors_that_a_user_can_correct_get_one_line(error, code):
    with pytest.raises(SystemExit) as found, user_errors.one_line(runner.USER_ERRORS):
        raise error
    assert code in found.value.code
    assert_one_line(found.value.code)


def test_an_interrupt_names_what_resumes(capsys):
    with pytest.raises(SystemExit) as found, user_errors.one_line(runner.USER_ERRORS):
        raise KeyboardInterrupt
    assert found.value.code == 130
    assert capsys.readouterr().err == "interrupted; run the same command to resume\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NIF, "--config.train.batch_size=many"], "batch_size='many' has to be a whole number"),
        ([NIF, "--config.train.epochs=-1"], "config.train.epochs=-1.0 is out of range"),
        ([NIF, "train"], "what is 'train'? Options start with --."),
        (
            [f"--config=configs/base.py:{TINY}", "--workdir=file/run"],
            "file/run cannot be written (Not a directory)",
        ),
    ],
)
def test_a_process_ends_with_one_line(arguments, message, tmp_path):
    (tmp_path / "file").touch()
    arguments = [a.replace("--config=", f"--config={ROOT}/") for a in arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NIF_JAX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "nif_jax.main", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "runs").exists()
