"""What the configurations share. Every key stands here once, with its meaning.

`--config.tsp.weight=0.1` sets a key, and so does the text after a config's name (configs/text.py).
"""

from ml_collections import ConfigDict

from configs import layout, simulator
from configs.modes import add_modes

FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
"""XLA flags for what compiles longer than it runs. The last takes more than half of the time off
jax 0.10; later ones know it no longer, and nif_jax.parallel leaves it out there."""


def _data(config: ConfigDict, dataset: str, smoke: bool) -> None:
    config.data = ConfigDict()
    # "movielens_100k", "files" (your own tables, see source below) or "synthetic".
    config.data.source = dataset
    # "temporal_user": each user's last share is test; "temporal_global": quantiles of time;
    # "random": leaks the future, to match papers only; "column:period": this column of the events;
    # "dates:2022-04-22+2022-04-29": validation begins with the first date, test with the second.
    # Of four dates these are the middle ones: rows before the first are history and not trained on,
    # and events from the last on are left out.
    config.data.split = "temporal_user" if dataset == "movielens_100k" else "temporal_global"
    # Time zone of these dates, a name of the IANA database such as "Asia/Shanghai".
    config.data.time_zone = "UTC"
    # Rows of the events that are equal in all columns: "drop" all but one, or "keep" them.
    config.data.duplicates = "drop"
    config.data.train_share = 0.8
    # What is neither train nor validation is test.
    config.data.validation_share = 0.1
    # "all" earlier events with their labels as action codes, or the "positive" ones only.
    config.data.history = "all"
    # Events of one second: "order" lets the seeded shuffle decide which came first, "exclude"
    # lets a row see strictly earlier seconds only.
    config.data.ties = "order"
    # Share of the train labels that rankers may use; movelines stay whole.
    config.data.label_share = 1.0
    # Scenes whose labels rankers may use, "tab0+tab4", in every period; "" = all.
    config.data.label_scenes = ""
    # Sampled negatives of each event with label 1, for logs of purchases; and what is not sampled:
    # what the "user" has bought at any time, or what is in the same "basket" (second).
    config.data.negatives = 0
    config.data.negatives_exclude = "user"
    # Days before and after an event within which an item was bought that is sampled for it; 0 =
    # derived from how long items live in the log (nif_jax/data/negatives.py).
    config.data.negatives_days = 0.0
    # L, events of the ranker's history.
    config.data.history_length = 20 if smoke else 50
    # Where batches are gathered: "device", "host" (Grain), or "auto", on the device if the store
    # takes at most device_bytes of each; 0 = a quarter of its memory, 2e9 where it is a CPU.
    config.data.input = "auto"
    config.data.device_bytes = 0
    # Whether sizes of arrays do not depend on where data.split cuts the log: tables have a row for
    # each item and user of the whole log, and stores are padded to powers of two. Runs on parts of
    # one log then share compiled programs; --mode=daily sets it for its runs.
    config.data.fixed_shapes = False
    # Downloads, prepared data, compiled programs; "" = $NIF_JAX_CACHE, or the user's cache folder.
    config.data.cache_dir = ""
    # Seed of tie order, simulation and random splits: the data is the same for all model seeds.
    config.data.seed = 0
    _source(config, dataset, smoke)


def _source(config: ConfigDict, dataset: str, smoke: bool) -> None:
    # Options of the source; docstrings in nif_jax/data/sources describe them. For files, the action
    # that histories contain is action_columns, else the action column, else the label. An action
    # that is the same for all labelled events is shown with the label.
    config.source = ConfigDict()
    if dataset in ("movielens_100k", "tfds"):
        config.source.path = ""
    elif dataset == "files":
        for name in ("path", "items", "users", "history", "columns", "history_columns"):
            config.source[name] = ""
        for name in ("item_columns", "user_columns", "action_columns", "label_from", "unlabelled"):
            config.source[name] = ""
        # Events whose order is known and whose time is not, "scene=history".
        config.source.order_only = ""
        for name in ("header", "item_header", "user_header", "encoding", "delimiter"):
            config.source[name] = ""
        config.source.time_format = ""
        # Ids that are the same number, "001" and "1": "strict" refuses them, "exact" keeps them
        # apart, "number" reads both as 1.
        config.source.ids = "strict"
        config.source.user_share = 1.0
    else:
        simulator.add_world(config, smoke)


def _ranker(config: ConfigDict, smoke: bool) -> None:
    config.ranker = ConfigDict()
    # D, width of every embedding.
    config.ranker.dim = 32
    # Hidden widths of the target attention (DIN) and of the final tower.
    config.ranker.attention = (8,) if smoke else (32, 16)
    config.ranker.tower = (32,) if smoke else (256, 128, 64)
    # Dropout rate in the tower; all dropout rates are rounded to multiples of 1/256.
    config.ranker.dropout = 0.4
    # Share of items that a train step sees as unknown.
    config.ranker.id_dropout = 0.1
    # Count features (nif_jax/data/counters.py) of earlier events: of the labels of "all" events
    # of the movelines, as the generator reads them, of those that rankers may use ("labelled"), or
    # "none".
    config.ranker.statistics = "all"
    # Hidden widths of the MLP that makes a field of them.
    config.ranker.statistics_widths = (16,) if smoke else (64,)
    # Heads of the Semantic Alignment Module.
    config.ranker.align_heads = 2
    # Dropout rate on what a frozen generator gives: its item vectors and the aligned flow.
    config.ranker.align_dropout = 0.2
    # Hidden width of the calibration head c(r, target).
    config.ranker.calibration = 32


def _baselines(config: ConfigDict) -> None:
    """What the baselines have beside the ranker's settings, which they share."""
    config.baselines = ConfigDict()
    # Popularity: impressions at the mean click rate that every item is given.
    config.baselines.prior = 2.0
    # LightGBM: trees at most (validation chooses how many), and leaves of a tree.
    config.baselines.num_trees = 1000
    config.baselines.leaves = 31
    # FM: width of the factors.
    config.baselines.factors = 16
    # DCN-V2: cross layers.
    config.baselines.cross_layers = 2
    # SASRec: blocks of the encoder, their heads and dropout rate.
    config.baselines.encoder_layers = 2
    config.baselines.encoder_heads = 2
    config.baselines.encoder_dropout = 0.2


def training(config: ConfigDict, section: str, smoke: bool, **values) -> None:
    """A section of training settings; the values are defaults that differ between stages."""
    part = config[section] = ConfigDict()
    # Rows (windows, for the generator) of one step over all devices.
    part.batch_size = values["batch_size"]
    # Passes over the data at most, epochs between evaluations, and evaluations without a better
    # metric before the stage stops (0 = never).
    part.epochs = 2.0 if smoke else values["epochs"]
    part.eval_epochs = 1.0 if smoke else values["eval_epochs"]
    part.patience = values["patience"]
    # AdamW.
    part.learning_rate = values["learning_rate"]
    part.warmup_steps = values["warmup_steps"]
    # "constant" or "cosine".
    part.decay = values["decay"]
    part.weight_decay = values["weight_decay"]
    # Largest global gradient norm; 0 = no clipping.
    part.clip_norm = 1.0
    # Steps that one call of the device takes, and calls between log lines. Evaluations are after
    # multiples of steps_per_dispatch.
    part.steps_per_dispatch = 4
    part.log_dispatches = 10
    # Most steps of a call on an accelerator, where a call costs more than a small step: the largest
    # multiple of steps_per_dispatch that leaves evaluations where they are.
    part.accelerator_steps_per_dispatch = 32
    # Rows of one gradient pass of a device, 0 = its whole batch: where it is a CPU, on which passes
    # that fit the cache are faster, and on an accelerator, where all they save is memory.
    part.microbatch = values["microbatch"]
    part.accelerator_microbatch = 0


def base_config(dataset: str, smoke: bool) -> ConfigDict:
    """The base ranker alone."""
    config = ConfigDict()
    config.seed = 0  # the first model seed
    config.num_seeds = 1  # each trains the whole pipeline
    # Models to train and compare, in order.
    config.rows = ("base",)
    # A workdir whose best checkpoints stages of the same name start from; "" = none. Rows of
    # tables are copied by their value, such as an item's id (docs/daily.md).
    config.init_from = ""
    # What rankers beside base start from: "scratch", as base does, or its layers ("base").
    config.init_rows = "scratch"
    # XLA flags of the process, before those of $XLA_FLAGS. A GPU repeats its bits only with
    # --xla_gpu_deterministic_ops=true.
    config.xla_flags = FAST_COMPILATION if smoke else ""
    layout.add_layout(config)
    # Activations and products of rankers and generators, "float32" or "bfloat16" (twice the rate on
    # accelerators, slower on CPUs). Always float32: parameters and moments, embeddings, statistics
    # of norms, softmax, the last layer to each logit, losses, metrics, and the tokenizer, whose
    # codes are nearest neighbours that rounding would change.
    config.compute_dtype = "float32"
    _data(config, dataset, smoke)
    _ranker(config, smoke)
    _baselines(config)
    training(
        config,
        "train",
        smoke,
        batch_size=256 if smoke else 1024,
        epochs=6.0,
        eval_epochs=0.5,
        patience=0,
        learning_rate=2e-3,
        warmup_steps=20,
        decay="cosine",
        weight_decay=1e-2,
        microbatch=256,
    )
    # Fewest steps of a ranker: few labels (data.label_share) get more epochs, with as many
    # evaluations, instead of a handful of steps; 0 = the epochs as they are.
    config.train.min_steps = 0 if smoke else 96
    # Tables of items and users with at least so many rows are trained by the rows that a step reads
    # (benchmarks/README.md, large tables); 0 = all tables are dense.
    config.train.sparse_rows = 100_000
    # Validation metric that stages of rankers are stopped and chosen by.
    config.train.metric = "auc"
    config.eval = ConfigDict()
    # Rows of one device and step when scoring, even: on a CPU, and on an accelerator. The batch of
    # training, which results depend on, is the same on all devices.
    config.eval.batch_size = 64 if smoke else 256
    config.eval.accelerator_batch_size = 2048
    # Paired bootstrap of each difference between models: what a resample draws ("user" or
    # "impression", nif_jax/metrics/bootstrap.py says when), and how many there are.
    config.eval.resample_unit = "user"
    config.eval.resamples = 100 if smoke else 1000
    add_modes(config, smoke)
    return config
