"""Settings of tiny runs on synthetic data, and runs that a test makes by hand."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from configs import nif
from nif_jax.metrics.writer import MetricWriter
from nif_jax.stages import context
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.pmap import Pmap

TINY = ",".join(
    [
        "synthetic,smoke,source.num_users=48,source.num_items=30,source.events_per_user=24.0",
        "ranker.dim=8,ranker.attention=8,ranker.tower=16,ranker.calibration=4",
        "data.history_length=6,train.batch_size=64,train.microbatch=0,train.epochs=2.0",
        "train.steps_per_dispatch=2,eval.batch_size=16",
    ]
)
TINY_NIF = ",".join(
    [
        TINY,
        "generator.dim=8,generator.heads=2,pretrain.batch_size=16,pretrain.context=6",
        "pretrain.epochs=2.0,pretrain.steps_per_dispatch=2,pretrain.eval_epochs=1.0",
        "flow.horizon=2",
    ]
)
TINY_HYBRID = ",".join(
    [
        TINY_NIF,
        "tokenizer.codes=4,tokenizer.dim=4,tokenizer.hidden=8,tokenize.batch_size=16",
        "intent.dim=8,intent.hidden=8,genci.side=8,eval.beams=10",
    ]
)
BASELINE_ROWS = ("base", "popularity", "lr", "deepfm", "dcn", "din", "sasrec", "sasrec_tsp")
TINY_BASELINES = ",".join(
    [
        TINY,
        "baselines.encoder_layers=1,baselines.prior=5.0,tsp.min_events=1,data.label_share=0.7",
        f"rows={'+'.join(BASELINE_ROWS)}",
    ]
)

WRITERS: list[MetricWriter] = []
"""Of the runs that a test makes by hand."""


def make_run(
    folder: pathlib.Path, text: str = TINY_NIF, devices: int | Devices = 1
) -> context.Context:
    """A run of the first seed that trains nothing yet."""
    config = nif.get_config(text)
    parallel = Pmap(jax.devices()[:devices]) if isinstance(devices, int) else devices
    writer = MetricWriter(folder)
    WRITERS.append(writer)
    return context.Context(
        config=config,
        seed=0,
        folder=folder,
        dataset=context.load_dataset(config, parallel),
        parallel=parallel,
        writer=writer,
        train=True,
    )


def best_parameters(folder: pathlib.Path):
    """Leaves of a stage's best checkpoint, read by Orbax alone."""
    best = next(p for p in (folder / "best").iterdir() if p.name.isdigit())
    with ocp.StandardCheckpointer() as checkpointer:
        # Host arrays, whatever devices the run had.
        there = checkpointer.metadata(best / "tree").item_metadata.tree
        like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), there)
        return checkpointer.restore(best / "tree", like)
