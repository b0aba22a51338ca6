"""Every config makes a run, every key is read, and a wrong word gets the nearest right one."""

import pathlib
import subprocess
import sys
import types

import pytest
from ml_collections import ConfigDict

from configs import base, genci, hybrid, nif
from configs.datasets import PRESETS
from configs.text import DATASETS
from nif_jax import variants
from nif_jax.data import sources
from nif_jax.experiment import pipeline, runner, selection
from nif_jax.experiment.layout import make_devices
from nif_jax.experiment.settings import require_valid_settings
from nif_jax.metrics.writer import MetricWriter
from nif_jax.models.baselines.registry import BASELINES
from nif_jax.reports.scores import Scores
from nif_jax.stages import base as base_stage
from nif_jax.stages import context, finetune, ranking, step_counts
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.training.devices import memory as memory_of_devices
from nif_jax.training.devices.pmap import Pmap
from nif_jax.training.stage import Trained

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = {
    "base": base.get_config,
    "nif": nif.get_config,
    "genci": genci.get_config,
    "hybrid": hybrid.get_config,
}
TINY = (
    "synthetic,smoke,source.num_users=20,source.num_items=20,source.events_per_user=9.0,xla_flags="
)
TINY_CODES = f"{TINY},tokenizer.codes=8,eval.beams=5"


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_instantiates_for_every_data_set(name, dataset):
    for text in (dataset, f"{dataset},smoke"):
        config = CONFIGS[name](text)
        assert config.data.source == dataset
        assert config.is_locked
        assert set(config.source) == set(sources.options(dataset))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_its_keys_and_the_text_wins(preset):
    config = nif.get_config(f"{preset},smoke,source.path=log,data.seed=7")
    assert config.data.source == "files" and config.source.path == "log"
    found = runner.flatten(config.to_dict())
    for key, value in PRESETS[preset].items():
        assert str(found[key]) == value
    key = next(iter(PRESETS[preset]))
    assert runner.flatten(nif.get_config(f"{key}=mine,{preset}").to_dict())[key] == "mine"


def test_source_defaults_are_the_sources_own():
    for dataset in DATASETS:
        assert dict(base.get_config(dataset).source) == sources.options(dataset)


class _Recording(ConfigDict):
    """Remembers which keys were read; splatting a section reads all of it, and what takes the
    section refuses a key that it does not know."""

    def __init__(self, config=(), prefix=""):
        object.__setattr__(self, "read", set())
        object.__setattr__(self, "prefix", prefix)
        super().__init__()
        for key, value in dict(config).items():
            child = _Recording(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else value
            self[key] = child

    def __getitem__(self, key):
        self.read.add(self.prefix + key)
        return super().__getitem__(key)

    def __getattr__(self, key):
        if key in ("read", "prefix") or key.startswith("_"):
            return super().__getattr__(key)
        return self[key]

    def to_dict(self, *args, **kwargs):
        return {}

    def all_read(self):
        children = [v for v in self._fields.values() if isinstance(v, _Recording)]
        return self.read.union(*(child.all_read() for child in children))


@pytest.mark.parametrize("name", ["nif", "hybrid"])
def test_every_key_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path))
    ours, text = ("amen", TINY) if name == "nif" else ("hybrid", TINY_CODES)
    plain = CONFIGS[name](f"{text},rows=base+popularity+lightgbm+fm+dcn+sasrec+{ours}")
    config = _Recording(plain)
    monkeypatch.setattr(runner, "require_valid_settings", lambda _: None)  # checked, but not used
    monkeypatch.setattr(pipeline, "train_and_evaluate", _trained_without_training)
    # Metrics of untrained models are the business of other tests.
    for name in ("score_rankers", "result_rows", "bucket_rows"):
        monkeypatch.setattr(runner.evaluation, name, lambda *_: {})
    monkeypatch.setattr(runner.evaluation, "test_scores", lambda *_: Scores([], [], "", {}))
    for name in ("retrieval_rows", "code_rows", "calibration_rows"):
        monkeypatch.setattr(runner.evaluation, name, lambda *_: [])
    monkeypatch.setattr(runner.pictures, "draw", lambda *_: None)
    monkeypatch.setattr(runner, "write_scores", lambda *_: None)
    monkeypatch.setattr(runner.significance, "differences", lambda *_, **__: [])
    monkeypatch.setattr(runner.results, "write_results", lambda *_, **__: None)
    monkeypatch.setattr(runner.page, "write_report", lambda *_: None)
    monkeypatch.setattr(runner, "print_results", lambda *_: None)
    monkeypatch.setattr(runner, "merge_metrics", lambda *_: None)
    monkeypatch.setattr(runner.ab, "compare", lambda *_, **__: [])
    monkeypatch.setattr(pipeline.checkpoint, "is_finished", lambda *_: True)
    runner.run(config, tmp_path / "run", "train")
    runner.run(config, tmp_path / "run", "ab")
    run = context.Context(
        config,
        0,
        tmp_path,
        context.load_dataset(config, Pmap()),
        Pmap(),
        MetricWriter(tmp_path, enabled=False),
        True,
    )
    ranking.validation_plan(run)
    config.parallel = "mesh"
    make_devices(config)
    unread = set(runner.flatten(plain.to_dict())) - config.all_read()
    # Those of --mode=daily change the config of a day, see tests/experiment/test_days.py.
    assert not {key for key in unread if not key.startswith("daily.")}


def _trained_without_training(stage, *, initial, parallel, **_):
    return Trained(stage, *initial, {"blend_weight": 0.0}, 0, 0.0, parallel.replicate(initial))


def test_a_model_is_compared_with_the_base():
    for get_config in CONFIGS.values():
        assert get_config("synthetic,model=din").rows == ("base", "din")
        assert get_config("synthetic,model=base").rows == ("base",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("movielens_100", "Did you mean 'movielens_100k'"),
        ("smok", "Did you mean 'smoke'"),
        ("kuairnd", "Did you mean 'kuairand'"),
        ("tsp.weigth=1", "no config key 'tsp.weigth'. Did you mean 'weight'"),
        ("tps.weight=1", "no config key 'tps.weight'. Did you mean 'tsp'"),
        ("flow.cache=yes", "has to be True or False"),
        ("num_seeds=two", "num_seeds='two' has to be a whole number"),
        ("num_seeds=1.5", "num_seeds='1.5' has to be a whole number"),
        ("tsp.weight=high", "tsp.weight='high' has to be a number"),
        ("ranker.tower=64+x", r"ranker.tower='64\+x' has to be a whole number, or several with \+"),
        ("source=files", "source='files' names a section"),
        (
            "files,source.columns=user_id=uid,item_id=iid",
            r"no config key 'item_id'.* needs the flag form, --config.source.columns=\.\.\.",
        ),
        (
            "files,source.item_columns=title,brand",
            r"'brand' is no data set.* needs the flag form, --config.source.item_columns=\.\.\.",
        ),
    ],
)
def test_a_wrong_word_names_the_nearest(text, message):
    with pytest.raises(ValueError, match=message):
        nif.get_config(text)


def test_only_what_may_be_the_rest_of_a_value_is_told_of_commas():
    with pytest.raises(ValueError, match="no config key 'seeds'") as error:
        nif.get_config("kuairand,num_seeds=2,seeds=3")
    assert "commas" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("flow_loss.negatives=exakt", "did you mean 'exact'"),
        ("flow_loss.diversity=cosin", "did you mean 'cosine'"),
        ("flow_loss.velocity=chords", "did you mean 'chord'"),
        ("tsp.score=logits", "did you mean 'logit'"),
        (
            "flow.generator_item_emb=ad",
            "flow.generator_item_emb='ad' is none of add, init, none",
        ),
        ("rows=base+amne", "did you mean 'amen'"),
        ("model=dinn", "did you mean 'din'"),
        ("rows=sasrec_tsp,tsp.moveline=positive", "'sasrec_tsp' has no calibration head"),
        ("model=popularity,baselines.prior=0", "prior=0.0 is out of range: a positive number"),
        ("rows=base+genci", "variant 'genci' needs the section 'genci', which this config lacks"),
        ("init_rows=bass", "did you mean 'base'"),
        ("data.history=positives", "did you mean 'positive'"),
        ("data.split=temporal", "none of temporal_user, temporal_global, random"),
        ("train.batch_size=7", "config.train.batch_size=7 is out of range: an even number"),
        ("train.microbatch=100", "config.train.microbatch=100 has to be even and to divide the"),
        ("eval.resample_unit=users", "did you mean 'user'"),
        ("train.decay=cosin", "config.train.decay='cosin' is none of constant, cosine"),
        ("pretrain.decay=cosin", "config.pretrain.decay='cosin' is none of constant, cosine"),
        ("generator.heads=5", "multiple of 2 x config.generator.heads=5"),
        ("tsp.score=logit,tsp.moveline=positive", "goes with config.tsp.score='calibration'"),
        ("init_from=no_such_run", "there is no no_such_run/seed_0"),
        (
            "data.history=positive,rows=nif_labels",
            r"labels \[1\] only.*--config.flow.label_head=none",
        ),
    ],
)
def test_a_bad_setting_says_which_and_what_else(setting, message, tmp_path, monkeypatch):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(pipeline, "train_and_evaluate", _never)
    with pytest.raises(runner.ConfigError, match=message):
        runner.run(nif.get_config(f"{TINY},{setting}"), tmp_path / "run", "train")


def test_a_log_of_positives_is_told_of_negatives(tmp_path, monkeypatch):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(pipeline, "train_and_evaluate", _never)
    file = tmp_path / "bought.csv"
    rows = [
        f"{user},{user + item},{1_700_000_000 + 3_600 * item},1"
        for user in range(8)
        for item in range(10)
    ]
    file.write_text("\n".join(["user_id,item_id,timestamp,label", *rows]) + "\n")
    text = f"files,smoke,source.path={file}"
    with pytest.raises(runner.ConfigError, match=r"labels \[1\] only.*data.negatives=1"):
        runner.run(base.get_config(text), tmp_path / "run", "train")
    # Sampled negatives are impressions to choose by, and labels for the label head to learn.
    with pytest.raises(AssertionError, match="trained"):
        runner.run(nif.get_config(f"{text},data.negatives=1"), tmp_path / "run", "train")


@pytest.mark.parametrize(("backend", "rows"), [("cpu", 8), ("gpu", 16), ("tpu", 16)])
def test_passes_of_a_step_are_those_for_the_kind_of_device(backend, rows, monkeypatch):
    section = base.get_config("train.microbatch=8,train.accelerator_microbatch=16").train
    plan = types.SimpleNamespace(batch_size=64, steps_per_epoch=1)
    monkeypatch.setattr(step_counts.jax, "default_backend", lambda: backend)
    assert step_counts.loop_settings(section, plan).microbatch == rows
    plan.batch_size = 60
    with pytest.raises(runner.ConfigError, match=r"microbatch=(8|16) has to be even"):
        step_counts.loop_settings(section, plan)


def _never(stage, **_):
    raise AssertionError(f"{stage.name} was trained before the bad setting was found")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("content.source=tfidff", "did you mean 'tfidf'"),
        ("tokenize.decay=cosin", "config.tokenize.decay='cosin' is none of constant, cosine"),
        ("tokenizer.form=emma", "did you mean 'ema'"),
        ("tokenizer.form=random,tokenizer.levels=1,tokenizer.codes=2", "share one semantic ID"),
        ("tokenizer.codes=256", "codes=256 is more than the 20 items"),
        ("genci.beams=50", "beams=50 is more than the 20 items"),
        ("genci.targets=positives", "did you mean 'positive'"),
        ("genci.delta_fade=1.5", "delta_fade=1.5 is out of range.*at least 0 and at most 1"),
        ("cohorts.levels=4", "cohorts.levels=4 is more than config.tokenizer.levels=3"),
        ("cohorts.form=prefixes", "did you mean 'prefix'"),
        ("cohorts.mean=padding", "did you mean 'padded'"),
        ("cohorts.attention=share", "did you mean 'shared'"),
        ("intent.history=items", "did you mean 'item'"),
        ("rows=base+amen", "variant 'amen' needs the section 'generator', which this config lacks"),
    ],
)
def test_a_bad_setting_of_cohorts_says_which_and_what_else(setting, message, tmp_path, monkeypatch):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path))
    # What codes come to is known when there are some; all else before anything is trained.
    later = setting.startswith("tokenizer.form=random")
    train = _trained_without_training if later else _never
    monkeypatch.setattr(pipeline, "train_and_evaluate", train)
    with pytest.raises(runner.ConfigError, match=message):
        runner.run(genci.get_config(f"{TINY_CODES},{setting}"), tmp_path / "run", "train")


def test_a_baseline_has_no_flow_and_no_cohorts():
    for part in ("flow", "cohorts"):
        with pytest.raises(ValueError, match="'din' attends to neither flow nor cohorts"):
            variants.Variant("din", **{part: True})


def test_few_labels_get_the_steps_they_need():
    section = base.get_config("train.epochs=6.0,train.eval_epochs=0.5,train.min_steps=320").train
    for steps_per_epoch, epochs in ((1, 320), (4, 80), (53, 7)):
        longer = step_counts.with_min_steps(section, steps_per_epoch)
        assert longer.epochs == epochs
        assert longer.epochs / longer.eval_epochs == pytest.approx(12)  # evaluations as before
        assert longer.learning_rate == section.learning_rate
    assert section.epochs == 6.0
    for steps_per_epoch in (54, 1000):
        assert step_counts.with_min_steps(section, steps_per_epoch) is section
    for text in ("train.epochs=0", "train.min_steps=0", "smoke"):
        section = base.get_config(text).train
        assert step_counts.with_min_steps(section, 1) is section


def test_every_ranker_stretches_and_popularity_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path))
    config = base.get_config(f"{TINY},data.label_share=0.2,train.min_steps=40")
    run = context.Context(
        config,
        0,
        tmp_path,
        context.load_dataset(config, Pmap()),
        Pmap(),
        MetricWriter(tmp_path, enabled=False),
        True,
    )
    assert config.train.epochs * base_stage.make(run).plan.steps_per_epoch < 40
    rankers = [base_stage.make(run), finetune.make(run, "din", GeneratorOutputs())]
    for built in rankers:
        assert built.settings.epochs * built.plan.steps_per_epoch == 40
    assert finetune.make(run, "popularity", GeneratorOutputs()).settings.epochs == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow_loss.label_head=0.0,rows=nif_labels", r"'nif_labels'\].*leaves untrained"),
        ("flow_loss.label_head=0.0,flow.label_head=blend", r"'nif', 'amen'\].*leaves untrained"),
        ("flow.cross_fit=2", "goes with config.flow.label_head=input"),
        ("flow.label_head=False", "'False'.*blend, input, none"),
        ("flow.label_head=input,flow.cross_fit=1", "0 \\(off\\) or 2 folds and more"),
        ("flow.tune=True", "needs config.flow.cache=False"),
        ("flow.tune=True,flow.cache=False,rows=nif_labels", "has to be input or none"),
        ("flow.tune=True,flow.cache=False,flow.cross_fit=2", "and config.flow.cross_fit=0"),
    ],
)
def test_a_flow_that_nobody_could_learn_is_refused_before_training(text, message):
    with pytest.raises(runner.ConfigError, match=message):
        require_valid_settings(nif.get_config(f"{TINY},{text}"))


def test_a_variant_that_leaves_the_label_head_out_needs_no_loss_for_it():
    text = f"{TINY},flow_loss.label_head=0.0,rows="
    variants.require_variants(nif.get_config(text + "base+tsp+nif"))
    with pytest.raises(runner.ConfigError, match="leaves untrained"):
        variants.require_variants(nif.get_config(text + "base+nif+nif_labels"))


def test_cross_fitting_is_for_variants_that_read_the_label_logit():
    text = f"{TINY},flow.label_head=input,flow.cross_fit=2,rows="
    variants.require_variants(nif.get_config(text + "base+nif+nif_labels"))
    with pytest.raises(runner.ConfigError, match="in some variant"):
        variants.require_variants(nif.get_config(text + "base+nif_labels"))


@pytest.mark.parametrize("text", ["rows=selected", "rows=base+selected", "rows=nif+nif+selected"])
def test_selected_needs_a_choice(text):
    with pytest.raises(runner.ConfigError, match="name two or more"):
        variants.require_variants(nif.get_config(f"{TINY},{text}"))


def test_a_metric_of_which_less_is_better_chooses_nothing(tmp_path, monkeypatch):
    require_valid_settings(hybrid.get_config(f"{TINY},train.metric=gauc"))
    for section in selection.METRICS:
        config = hybrid.get_config(f"{TINY},{section}.metric=logloss")
        with pytest.raises(runner.ConfigError, match=f"{section}.metric='logloss' is none of"):
            require_valid_settings(config)
    # A run dies of it before it trains.
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(runner.ConfigError, match=r"train\.metric='logloss' is none of"):
        runner.run(nif.get_config(f"{TINY},train.metric=logloss"), tmp_path / "run", "train")
    assert not list((tmp_path / "run").glob("seed_0/*/last"))


def test_quirks_reproduce_the_authors_code():
    config = genci.get_config("synthetic,quirks=True")
    for variant in ("genci", "genci_quirks"):
        given = config if variant == "genci" else genci.get_config("synthetic")
        found = variants.variant_config(given, variant)
        assert (found.genci.targets, found.genci.beams, found.genci.detach) == ("all", 1, False)
        assert found.genci.delta_fade == 0
        assert (found.cohorts.form, found.cohorts.mean) == ("level", "padded")
        assert (found.cohorts.attention, found.cohorts.residual) == ("shared", False)
    assert variants.variant_config(genci.get_config("synthetic"), "genci").genci.beams == 4
    # The setting of a variant wins, and the run's config stays what it was.
    assert variants.variant_config(config, "genci_beams_16").genci.beams == 16
    assert config.genci.beams == 4


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_variant_has_settings_and_a_model_that_exist(variant):
    assert variants.VARIANTS[variant].model in {"ranker", variants.SELECTED, *BASELINES}
    config = hybrid.get_config("synthetic")
    changed = variants.variant_config(config, variant)
    assert set(runner.flatten(changed.to_dict())) == set(runner.flatten(config.to_dict()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/nif.py:synthetic", "--config.tsp.wieght=1"],
            "error: no such key in --config.<key>=<value>: 'wieght'. Did you mean \"weight\"",
        ),
        (["--config=configs/nif.py:synthetic", "--config.trian.epochs=1"], 'Did you mean "train'),
        (["--config=configs/nif.py:netflix"], "error: --config: 'netflix' is no data set or word"),
        (["--config=configs/nif.py:synthetic", "--mode=test"], "train, evaluate, predict, ab"),
        (["--config=configs/nif.py:synthetic", "--num_processes=2"], "go together"),
        ([], "--config is missing"),
        (["--config=configs/nif.py:synthetic", "--workdirs=runs/a"], "goes with --mode=report"),
        (["--mode=report", "--workdirs=runs/no_such_run"], "no workdir at runs/no_such_run"),
    ],
)
def test_the_command_line_refuses_what_it_does_not_know(arguments, message, tmp_path):
    command = [sys.executable, "-m", "nif_jax.main", f"--workdir={tmp_path}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode
    assert message in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_a_config_file_keeps_its_traceback(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from configs import base\nget_config = lambda: base.get_config().nothing\n")
    command = [sys.executable, "-m", "nif_jax.main", f"--config={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode and f'File "{file}", line 2' in done.stderr


@pytest.mark.parametrize(
    ("backend", "most", "steps"), [("cpu", 32, 4), ("gpu", 32, 24), ("tpu", 16, 12), ("gpu", 1, 4)]
)
def test_calls_are_longer_on_accelerators_and_divide_the_evaluations(
    backend, most, steps, monkeypatch
):
    text = f"train.eval_epochs=1.0,train.accelerator_steps_per_dispatch={most}"
    monkeypatch.setattr(step_counts.jax, "default_backend", lambda: backend)
    plan = types.SimpleNamespace(batch_size=1024, steps_per_epoch=23)  # evaluations every 24 steps
    assert step_counts.loop_settings(base.get_config(text).train, plan).unit == steps


def test_data_may_take_a_quarter_of_the_smallest_device(monkeypatch):
    def devices(*memory):
        stats = [None if size is None else {"bytes_limit": size} for size in memory]
        made = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
        monkeypatch.setattr(memory_of_devices.jax, "local_devices", lambda: made)
        return memory_of_devices.bytes_for_data()

    assert devices(80_000, 40_000) == 10_000
    assert devices(None) == 2_000_000_000
