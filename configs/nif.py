"""NIF / AMEN: base ranker, flow generator, and rankers with flow, with TSP, and with both.

python -m nif_jax.main --config=configs/nif.py
python -m nif_jax.main --config=configs/nif.py:synthetic,smoke

nif and amen are the paper's models. nif_labels and amen_labels also use the generator's label head,
our addition (nif_jax/variants.py).
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # see configs/__init__.py
from configs import common, text

del sys.path[0]

ROWS = (
    "constant",
    "counters",
    "lightgbm",
    "base",
    "nif",
    "tsp",
    "amen",
    "nif_labels",
    "amen_labels",
    "selected",
)
"""The variants of a full run, in order."""


def get_config(words: str = "") -> common.ConfigDict:
    """See configs/text.py for the text."""
    dataset, smoke, preset, settings = text.parse(words)
    config = common.base_config(dataset, smoke)
    # base: F_0. nif: flow, no TSP. tsp: TSP, no flow. amen: both. nif_labels, amen_labels: with the
    # label head. constant, counters, lightgbm: controls. selected: the best of the trained ones on
    # validation, which trains nothing.
    config.rows = ("base", "nif", "tsp", "amen", "selected") if smoke else ROWS
    add_flow(config, smoke)
    text.apply(config, preset, settings)
    return config


def add_flow(config: common.ConfigDict, smoke: bool) -> None:
    """The sections of generator, flow and TSP."""
    _generator(config, smoke)
    _flow_loss(config)
    _finetune(config)


def _generator(config: common.ConfigDict, smoke: bool) -> None:
    config.generator = common.ConfigDict()
    # D, heads and blocks of the decoder. Item tables are copied between stages where D is equal.
    config.generator.dim = 32
    config.generator.heads = 4
    config.generator.layers = 2
    config.generator.mlp_ratio = 4
    config.generator.dropout = 0.3
    # Share of items that a train step sees as unknown, so that labels are not memorised by id.
    config.generator.id_dropout = 0.3
    # Share of events whose scene, action and gap are hidden in training, as a roll-out's are.
    config.generator.context_dropout = 0.1
    # "heads": outputs of the last attention are the flow (the paper's); "mixed": a full block.
    config.generator.flow = "heads"
    # Hidden width of the label head.
    config.generator.label_head = 64

    common.training(
        config,
        "pretrain",
        smoke,
        batch_size=16,
        epochs=16.0,
        eval_epochs=2.0,
        patience=3,
        learning_rate=3e-3,
        warmup_steps=50,
        decay="cosine",
        weight_decay=1e-2,
        microbatch=0,
    )
    # Cross-stage initialisation: "base" copies equal layers of F_0, "scratch" none.
    config.pretrain.init = "base"
    # S, events that the decoder reads before a roll-out.
    config.pretrain.context = 20 if smoke else 50
    # As train.sparse_rows, for the generator with sampled negatives; exact ones read all rows.
    config.pretrain.sparse_rows = 100_000
    # Validation metric that the generator is chosen by ("quality" is hr@10 plus, where events have
    # both labels, the label head's AUC times the weight of its loss), and the number of impressions
    # of a device that it is measured on.
    config.pretrain.metric = "quality"
    config.pretrain.eval_rows = 2048


def _flow_loss(config: common.ConfigDict) -> None:
    config.flow_loss = common.ConfigDict()
    # tau of InfoNCE.
    config.flow_loss.temperature = 0.07
    # "exact" softmax over the catalogue, "in_batch" with logQ plus uniform, or "uniform".
    config.flow_loss.negatives = "exact"
    # Uniform samples of a device and step, for the two sampled forms.
    config.flow_loss.uniform = 512
    # What is to be predicted: "all" next events or "positive" ones only.
    config.flow_loss.targets = "all"
    # Weight and form of diversity: of the heads' "scores" of items, or of their coordinates
    # ("cosine" or "tangent"), which rotations of a head change although predictions stay.
    config.flow_loss.alpha = 0.01
    config.flow_loss.diversity = "scores"
    # Items that "scores" compares: the catalogue, or so many samples of a step where it is larger.
    config.flow_loss.diversity_items = 4096
    # Weight and form of velocity: "geodesic" or "chord"; seconds after which it counts half.
    config.flow_loss.beta = 0.01
    config.flow_loss.velocity = "geodesic"
    config.flow_loss.half_life = 86_400.0
    # Positions of a row from which the flow is rolled out in a step, so that velocity holds for
    # the states that rankers read (flow.horizon); 0 = teacher-forced states only.
    config.flow_loss.velocity_starts = 2
    # r, free-running steps that are trained too.
    config.flow_loss.rollout_steps = 0
    # Weight of the cross-entropy of labels, which the label head predicts from a flow state, the
    # next item and the past events that it attends to; 0 = off. Sampled negatives have labels too
    # (data.negatives). Ours: the paper's flow is not trained on labels.
    config.flow_loss.label_head = 2.0
    # What that cross-entropy trains: the whole "generator", which all variants of a run share, or
    # the "head" alone, on fixed states, so that the flow learns of next items only (the paper's).
    config.flow_loss.label_gradient = "generator"


def _finetune(config: common.ConfigDict) -> None:
    config.flow = common.ConfigDict()
    # T, states of the flow that the alignment attends to.
    config.flow.horizon = 4
    # Whether flows are computed once for all events, or anew in every step.
    config.flow.cache = True
    # Numbers of that cache, "float32" or "bfloat16": 768 or 384 bytes per event with D = 32 and
    # T = 4, a quarter of them for the label head.
    config.flow.cache_dtype = "float32"
    # Bytes of the cache of a process up to which it is kept in memory. A larger one is a
    # memory-mapped file in the workdir, and batches are gathered on the host (data.input).
    config.flow.cache_bytes = 4_000_000_000
    # Whether the generator is trained on with the ranker, at its learning rate, instead of being
    # frozen (the paper's); needs cache=False, and a label_head of input or none.
    config.flow.tune = False
    # Use of the generator's item table in the ranker: "add" (projected), "init" (as initial value;
    # needs equal D) or "none" (the paper's). It does harm where items are many and events few.
    config.flow.generator_item_emb = "none"
    # Use of the label head's logit of a candidate: "blend" takes a mean of it and the ranker's,
    # whose weight is chosen on validation (as nif_labels and amen_labels do); "input" gives it to
    # the ranker, in training too, where the generator was trained on the same labels; or "none"
    # (the paper's).
    config.flow.label_head = "none"
    # Folds of users: an "input" in training comes from a generator that was trained without the
    # user's fold. 0 = from the one generator, which was trained on the same labels.
    config.flow.cross_fit = 0

    config.tsp = common.ConfigDict()
    # Weight of a pair's loss beside an impression's cross-entropy, and the margin m (its value is
    # ours; with 0 the loss is that of BPR).
    config.tsp.weight = 0.05
    config.tsp.margin = 0.5
    # What is compared: the "calibration" score or the final "logit".
    config.tsp.score = "calibration"
    # Moveline that the members are scored with: their "own", or both the "positive"'s.
    config.tsp.moveline = "own"
    # Time windows apart: fewest events of the user between members (1 = any), fewest seconds, and
    # most events (0 = no bound).
    config.tsp.min_events = 5
    config.tsp.min_seconds = 0
    config.tsp.max_events = 0
