"""Command line.

python -m nif_jax.main --config=configs/nif.py --workdir=runs/nif
python -m nif_jax.main --mode=report --workdirs='runs/*' --output=report.html
python -m nif_jax.main --mode=score --workdir=runs/nif --input=requests.parquet \
    --output=scores.parquet
python -m nif_jax.main --mode=export --workdir=runs/nif --output=artefacts/nif
python -m nif_jax.main --mode=parity --left=artefacts/nif --right=runs/nif
"""

import contextlib
import logging as std_logging
import pathlib
import shlex
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from nif_jax.experiment import daily, flag_errors, runner, user_errors
from nif_jax.inference import build, command, export, parity
from nif_jax.reports import page, workdirs
from nif_jax.training.devices import preemption, processes

FLAGS = flags.FLAGS
FINISHED = ("report", "score", "recommend", "export", "parity")
"""Modes that read the config of a finished run."""
SERVING = ("score", "recommend")
TOP = 10
"""Items of a recommendation, unless --k says otherwise."""
config_flags.DEFINE_config_file(
    "config", None, "Configuration, e.g. configs/nif.py:movielens_100k,smoke", lock_config=True
)
flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config>-<its text>.")
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "predict", "ab", "daily", *FINISHED],
    "train: train what is missing, then evaluate. evaluate: score finished stages. predict: write "
    "the scores of the test impressions to <workdir>/predictions.parquet. ab: rank simulated "
    "traffic with the finished stages and write the lifts in clicks to <workdir>/ab.json. daily: "
    "predict each day of the log, then train on it (docs/daily.md). report: compare finished "
    "--workdirs on one page. score, recommend: score the requests of --input, or choose --k items "
    "for each, with a --variant of the finished --workdir. export: write that variant to the "
    "folder --output, which nif_jax.serving loads. parity: name the first feature in which --left "
    "and --right differ, two files of scores, or an artefact and a run; status 1 if they differ "
    "(docs/serving.md).",
)
flags.DEFINE_list("workdirs", [], "With --mode=report: finished workdirs, or patterns (runs/*).")
flags.DEFINE_string(
    "output",
    None,
    "With --mode=report: the page (.html, default report.html), or its tables alone (.md). With "
    "--mode=score or recommend: the file of scores (.parquet, .csv or .jsonl). With --mode=export: "
    "a folder, new or of an earlier export.",
)
flags.DEFINE_string(
    "input",
    None,
    "With --mode=score or recommend: the file of requests. With --mode=parity: requests to compare "
    "two folders on, instead of sample requests.",
)
flags.DEFINE_bool(
    "features", False, "With --mode=score: also write what each score is computed from."
)
flags.DEFINE_string(
    "items", None, "With --mode=score: a file of new items, item_id and their features."
)
flags.DEFINE_bool("onnx", False, "With --mode=export: also write the score as an ONNX program.")
flags.DEFINE_string("left", None, "With --mode=parity: a file of scores, an artefact or a workdir.")
flags.DEFINE_string("right", None, "With --mode=parity: what --left should equal.")
flags.DEFINE_string("variant", "selected", "With a finished --workdir: one of the run's rows.")
flags.DEFINE_integer("k", TOP, "With --mode=recommend: items for each request.", lower_bound=1)
flags.DEFINE_bool("exclude_seen", True, "With --mode=recommend: leave out items of the moveline.")
flags.DEFINE_integer("seed", None, "With --variant: model seed; default the first.")
flags.DEFINE_bool(
    "profile",
    False,
    "Measure the train step of every stage that is trained: a trace in <workdir>/profile/<stage>, "
    "and time, FLOPs and bytes against this machine's rates in <workdir>/profile.md and .json.",
)
flags.DEFINE_string("coordinator", None, "host:port of process 0, for several processes.")
flags.DEFINE_integer("num_processes", None, "Processes of the run, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Number of this process, with --coordinator.")
flags.register_multi_flags_validator(
    ["config", "mode"],
    lambda given: given["mode"] in FINISHED or given["config"] is not None,
    message="--config is missing, e.g. --config=configs/nif.py",
)
flags.register_multi_flags_validator(
    ["workdir", "input", "output", "mode"],
    lambda given: given["mode"] not in SERVING or None not in given.values(),
    message="--mode=score and --mode=recommend need --workdir, --input and --output",
)
flags.register_multi_flags_validator(
    ["workdir", "output", "mode"],
    lambda given: given["mode"] != "export" or None not in given.values(),
    message="--mode=export needs --workdir and --output",
)
flags.register_multi_flags_validator(
    ["input", "mode"],
    lambda given: given["mode"] in (*SERVING, "parity") or given["input"] is None,
    message="--input goes with --mode=score, recommend or parity",
)
flags.register_multi_flags_validator(
    ["variant", "seed", "mode"],
    lambda given: (
        given["mode"] in (*SERVING, "export")
        or (given["variant"] == "selected" and given["seed"] is None)
    ),
    message="--variant and --seed go with --mode=score, recommend or export; a run takes "
    "--config.rows and --config.seed",
)
flags.register_multi_flags_validator(
    ["left", "right", "workdir", "mode"],
    lambda given: (
        None not in (given["left"], given["right"]) and given["workdir"] is None
        if given["mode"] == "parity"
        else given["left"] is given["right"] is None
    ),
    message="--mode=parity needs --left and --right, no --workdir; no other mode has them",
)
flags.register_multi_flags_validator(
    ["onnx", "mode"],
    lambda given: given["mode"] == "export" or not given["onnx"],
    message="--onnx goes with --mode=export",
)
flags.register_multi_flags_validator(
    ["features", "items", "mode"],
    lambda given: given["mode"] == "score" or not (given["features"] or given["items"]),
    message="--features and --items go with --mode=score",
)
flags.register_multi_flags_validator(
    ["k", "exclude_seen", "mode"],
    lambda given: given["mode"] == "recommend" or (given["k"] == TOP and given["exclude_seen"]),
    message="--k and --exclude_seen go with --mode=recommend",
)
flags.register_multi_flags_validator(
    ["output", "mode"],
    lambda given: given["mode"] in ("report", *SERVING, "export") or given["output"] is None,
    message="--output goes with --mode=report, score, recommend or export; a run takes --workdir",
)
flags.register_multi_flags_validator(
    ["workdirs", "mode"],
    lambda given: given["mode"] == "report" or not given["workdirs"],
    message="--workdirs goes with --mode=report; a run takes --workdir",
)
flags.register_multi_flags_validator(
    ["profile", "mode"],
    lambda given: given["mode"] == "train" or not given["profile"],
    message="--profile goes with --mode=train, whose steps it measures",
)


def default_workdir() -> pathlib.Path:
    """runs/<config>-<text>, so that two data sets do not share a folder."""
    path, _, text = config_flags.get_config_filename(FLAGS["config"]).partition(":")
    words = "".join(c if c.isalnum() or c in "_.=" else "-" for c in text)
    return pathlib.Path("runs") / "-".join(filter(None, [pathlib.Path(path).stem, words]))


def silence_library_logs() -> None:
    """Lets only warnings through of what others log by absl (Orbax has a line for every file)."""
    own = str(pathlib.Path(__file__).parent)
    handler = logging.get_absl_handler()
    handler.addFilter(lambda r: r.levelno >= std_logging.WARNING or r.pathname.startswith(own))


def report() -> None:
    """Writes the page of --workdirs."""
    words = shlex.join(["python", "-m", "nif_jax.main", *sys.argv[1:]])
    path = page.write_many(FLAGS.workdirs, FLAGS.output or "report.html", words)
    print(f"{path} has {', '.join(FLAGS.workdirs)}.")


def serve() -> None:
    """Exports a variant of --workdir, or scores --input with it, or recommends for it."""
    model, output = build.load(FLAGS.workdir, FLAGS.variant, FLAGS.seed), pathlib.Path(FLAGS.output)
    if FLAGS.mode == "export":
        export.export(model, output, FLAGS.onnx)
        return
    paths = pathlib.Path(FLAGS.input), output
    if FLAGS.mode == "score":
        items = None if FLAGS.items is None else pathlib.Path(FLAGS.items)
        command.score(model, *paths, FLAGS.features, items)
    else:
        command.recommend(model, *paths, FLAGS.k, FLAGS.exclude_seen)


def run_mode() -> None:
    """Joins the other processes and dispatches on --mode."""
    joined = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if any(p is not None for p in joined) and None in joined:
        sys.exit("error: --coordinator, --num_processes and --process_id go together.")
    if FLAGS.mode == "report":
        report()
        return
    processes.initialize(*joined)
    logging.set_verbosity(logging.INFO)
    silence_library_logs()
    if FLAGS.mode == "parity":
        source = None if FLAGS.input is None else pathlib.Path(FLAGS.input)
        sys.exit(int(parity.compare(FLAGS.left, FLAGS.right, source)))
    if FLAGS.mode in (*SERVING, "export"):
        serve()
        return
    workdir = pathlib.Path(FLAGS.workdir) if FLAGS.workdir else default_workdir()
    train = FLAGS.mode in ("train", "daily")
    with preemption.on_sigterm() if train else contextlib.nullcontext():
        if FLAGS.mode == "daily":
            daily.run(FLAGS.config, workdir)
        else:
            runner.run(FLAGS.config, workdir, FLAGS.mode, FLAGS.profile)


def main(argv: list[str]) -> None:
    """Runs the mode; errors that a user can correct become one line."""
    if len(argv) > 1:
        sys.exit(f"error: what is {argv[1]!r}? Options start with --.")
    with user_errors.one_line((*runner.USER_ERRORS, workdirs.WorkdirError)):
        run_mode()


def run() -> None:
    """Entry point of the console script."""
    app.run(main, flags_parser=lambda argv: flag_errors.parse(argv, FLAGS))


if __name__ == "__main__":
    run()
