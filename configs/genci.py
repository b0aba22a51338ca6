"""GenCI: base ranker, tokenizer, and a ranker with generated interest cohorts, end to end.

python -m nif_jax.main --config=configs/genci.py
python -m nif_jax.main --config=configs/genci.py:synthetic,smoke
python -m nif_jax.main --config=configs/genci.py:data.history=positive,rows=base+genci+genci_quirks

Ablations are rows too: genci_no_cohorts, genci_no_ssr, genci_no_ntp, genci_level_1, genci_beams_1,
genci_beams_4, genci_beams_16, genci_random_codes (nif_jax/variants.py).
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # see configs/__init__.py
from configs import common, text

del sys.path[0]


def get_config(words: str = "") -> common.ConfigDict:
    """See configs/text.py for the text."""
    dataset, smoke, preset, settings = text.parse(words)
    config = common.base_config(dataset, smoke)
    # genci: careful reading of the paper. genci_quirks: what the authors' code does.
    config.rows = ("base", "genci") if smoke else ("base", "genci", "genci_quirks")
    add_cohorts(config, smoke)
    text.apply(config, preset, settings)
    return config


def add_cohorts(config: common.ConfigDict, smoke: bool) -> None:
    """The sections of tokenizer, intent model and cohorts."""
    # Whether all rows with cohorts do what the authors' code does (nif_jax/variants.py, QUIRKS).
    config.quirks = False
    _tokenizer(config, smoke)
    _intent(config, smoke)
    # The encoder's attention fits a CPU's cache in smaller passes than the base ranker.
    config.train.microbatch = 64
    # Items generated when next-item retrieval is measured.
    config.eval.beams = 20 if smoke else 100


def _tokenizer(config: common.ConfigDict, smoke: bool) -> None:
    config.content = common.ConfigDict()
    # "tfidf" of titles and features, "text" (a sentence encoder, pip install nif_jax[text]),
    # "file", vectors of your own in a .npy or .parquet with item_id and vector, or "cooccurrence"
    # in the train period, which is also used, with a warning, where items have no words.
    config.content.source = "tfidf"
    config.content.path = ""
    # Principal axes of the content that are kept.
    config.content.dim = 128

    config.tokenizer = common.ConfigDict()
    # "ema" (RQ-VAE, codebooks by moving averages), "straight_through" (codebooks by gradients),
    # "kmeans" (residual k-means, no training) or "random" (codes without meaning). levels=1 is the
    # flat form.
    config.tokenizer.form = "ema"
    # K levels of V codes.
    config.tokenizer.levels = 3
    config.tokenizer.codes = 16 if smoke else 256
    # Latent width, and hidden widths of encoder and (mirrored) decoder.
    config.tokenizer.dim = 32
    config.tokenizer.hidden = (128,)
    # Weight of the commitment loss.
    config.tokenizer.commitment = 0.25
    # Decay of the moving averages, and the share of its even part below which a code starts anew.
    config.tokenizer.decay = 0.99
    config.tokenizer.dead_share = 0.05
    common.training(
        config,
        "tokenize",
        smoke,
        batch_size=512,
        epochs=200.0,
        eval_epochs=20.0,
        patience=0,
        learning_rate=1e-3,
        warmup_steps=20,
        decay="cosine",
        weight_decay=0.0,
        microbatch=0,
    )
    # Metric of the catalogue that codes are chosen by: "r2" of the content.
    config.tokenize.metric = "r2"
    if smoke:  # steps are few and fast
        config.tokenize.epochs, config.tokenize.eval_epochs = 40.0, 20.0


def _intent(config: common.ConfigDict, smoke: bool) -> None:
    config.intent = common.ConfigDict()
    # D, heads and their width (0 = D / heads), width of feed-forward layers, blocks.
    config.intent.dim = 32
    config.intent.heads = 2
    config.intent.head_dim = 0
    config.intent.hidden = 64
    config.intent.encoder_layers = 1 if smoke else 2
    config.intent.decoder_layers = 1
    config.intent.dropout = 0.0
    # "item": a token an event, sum of its codes and its context; "flat": a token a code.
    config.intent.history = "item"

    config.cohorts = common.ConfigDict()
    # Heads of both cross-attentions, levels that make cohorts (0 = all), dropout rate on r_c.
    config.cohorts.heads = 2
    config.cohorts.levels = 0
    config.cohorts.dropout = 0.2
    # Cohort: items that share a generated "prefix", or the code of a "level".
    config.cohorts.form = "prefix"
    # Its mean: over its "members", or over the "padded" width.
    config.cohorts.mean = "members"
    # "separate" cross-attentions with masks, or one "shared" without.
    config.cohorts.attention = "separate"
    # Whether the cross-attention over the history has a residual connection.
    config.cohorts.residual = True

    config.genci = common.ConfigDict()
    # G, items generated for each user; 0 = no cohorts.
    config.genci.beams = 4
    # k: training generates anew in one of k passes, and wherever a row has none yet; 1 = always.
    config.genci.refresh = 1
    # Weights of next-item prediction (gamma) and of self-supervised regularisation (delta).
    config.genci.gamma = 0.1
    config.genci.delta = 0.5
    # Share of the training in which delta falls to 0, linearly; 0 = it stays (the authors').
    config.genci.delta_fade = 0.5
    # Rows whose item is to be predicted: "positive" or "all".
    config.genci.targets = "positive"
    # Whether the side head's probability is a fixed target of the ranker.
    config.genci.detach = True
    # Hidden widths and dropout rate of the side head, a DeepFM.
    config.genci.side = (32,) if smoke else (128, 64)
    config.genci.side_dropout = 0.3
