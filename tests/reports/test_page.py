"""report.html of one run and of many: complete, self-contained, escaped."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nif_jax.metrics import ctr
from nif_jax.reports import page, plots, results, significance, workdirs
from nif_jax.reports.scores import Scores, fingerprint, write_scores

_VOID = {"meta", "img"}


class _Document(HTMLParser):
    """Tags with attributes, visible text, and whether every tag closes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def _row(model, seed, auc, **other):
    return {
        "model": model,
        "seed": seed,
        "split": "test",
        "history": "frozen",
        "auc": auc,
        "gauc": 0.6,
        "gauc_positives": 0.6,
        "ndcg@5": 0.5,
        "rank": 0.55,
        "logloss": 0.5,
        "ne": 0.9,
        "ece": None,
        "pcoc": 1.0,
        "train_examples_per_second": 1000.0,
        "parameters": 10,
        "peak_rss_bytes": 2**20,
    } | other


@pytest.fixture
def workdir(tmp_path):
    """A finished run that has everything."""
    folder = tmp_path / "run <1>"
    rows = [
        _row("base", 0, 0.711111),
        _row("base", 1, 0.722222),
        _row("nif", 0, 0.733333),
        _row("amen", 0, 0.744444, history="online"),
        _row("amen", 0, 0.7, split="random"),
    ]
    config = {"name": "$title </pre>", "alpha": 0.125}
    results.write_results(
        folder / "results.json",
        {"commit": "abc & <def>", "config": config},
        rows,
        retrieval=[
            {"model": "popularity", "seed": 0, "split": "test", "targets": "all", "hr@10": 0.0421}
        ],
        buckets={
            "history_length": {
                "base": [
                    {"lower": 0, "upper": 5, "count": 9, "auc": 0.6543},
                    {"lower": 5, "upper": None, "count": 1, "auc": None},
                ]
            }
        },
        notes=["<script>alert(1)</script>"],
    )
    arm = {
        "model": "oracle",
        "ctr": 0.5,
        "true_ctr": 0.4567,
        "lift": 0.25,
        "low": 0.2,
        "high": 0.3,
        "true_lift": 0.2,
        "oracle_share": 1.0,
    }
    (folder / "ab.json").write_text(json.dumps({"arms": [arm], "ab": {"slate": 77}}))
    records = [
        {"step": step, "stage": "base", "time": 0.0, "values": {"train/loss": 1 / step}}
        for step in (1, 2, 8)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    logits = {"base": np.array([-1.0, 1.0])}
    plots.reliability(np.array([0, 1]), logits, folder / "plots" / "reliability.png")
    plots.training_curves(records, folder / "plots" / "a_new_plot.png")
    return folder


def test_everything_is_on_the_page(workdir):
    path = page.write_report(workdir)
    assert path == workdir / "report.html"
    document = _Document(path.read_text(encoding="utf-8"))
    assert document.open == []
    for text in (
        "nif_jax: run <1> (random split: leaky)",
        "0.711111",
        "0.722222",
        "0.733333",
        "0.744444",
        "0.0421",
        "0.6543",
        "random (leaky)",
        "<script>alert(1)</script>",
        "n/a",
        "0.1250",
        "+20.00 to +30.00",
        "0.4567",
        "+2.22",
        "a new plot",
        "Observed against predicted click rate, in bins of equal mass.",
    ):
        assert text in document.text, text
    full = " ".join(document.text)
    assert '"commit": "abc & <def>"' in full
    assert '"name": "$title </pre>"' in full
    assert '"alpha": 0.125' in full
    assert "biased against models that use responses" in full
    assert "leaks the future" in full


def test_the_page_needs_nothing_else(workdir):
    text = page.write_report(workdir).read_text(encoding="utf-8")
    tags = _Document(text).tags
    assert re.search(r"https?://|url\(|@import", text) is None
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["src"].startswith("data:image/png;base64,iVBOR")
        assert picture["alt"]
    assert not any("href" in attributes for _, attributes in tags)


def test_notes_on_histories_and_splits_only_where_they_apply(tmp_path):
    results.write_results(tmp_path / "results.json", {}, [_row("base", 0, 0.7)])
    text = page.write_report(tmp_path).read_text(encoding="utf-8")
    assert "leaks" not in text
    assert text.count("biased") == 1  # what GAUC means, no warning
    assert "HR@k" not in text  # nothing here is explained that is not said


def test_missing_parts_are_told(tmp_path):
    results.write_results(tmp_path / "results.json", {}, [])
    text = page.write_report(tmp_path).read_text(encoding="utf-8")
    for missing in ("no plots", "no metrics.jsonl", "No rows"):
        assert missing in text


def test_writing_again_replaces_and_leaves_no_other_file(workdir):
    before = page.write_report(workdir).read_text(encoding="utf-8")
    names = {file.name for file in workdir.iterdir()}
    assert page.write_report(workdir).read_text(encoding="utf-8") == before
    assert (
        {file.name for file in workdir.iterdir()}
        == names
        == {"results.json", "metrics.jsonl", "plots", "report.html", "ab.json"}
    )


def test_errors_name_the_file(workdir):
    (workdir / "ab.json").write_text("{")
    with pytest.raises(workdirs.WorkdirError, match=r"ab\.json is damaged .*Delete it"):
        page.write_report(workdir)
    (workdir / "ab.json").unlink()
    (workdir / "results.json").write_text("{")
    with pytest.raises(workdirs.WorkdirError, match=r"results\.json"):
        page.write_report(workdir)
    (workdir / "results.json").unlink()
    with pytest.raises(workdirs.WorkdirError, match=r"no results at .*results\.json"):
        page.write_report(workdir)


_CONFIG = {
    "data.split": "temporal_user",
    "data.label_share": 1.0,
    "rows": ["base", "amen"],
    "eval.resample_unit": "user",
    "eval.resamples": 20,
}


def _make_run(folder, lift, dataset="ml", fingerprint_of=0, split="test", **config):
    """A finished workdir of two seeds with scores, whose amen separates better than base."""
    rows, scores = [], {}
    impressions = np.random.default_rng(0)
    label, user = impressions.integers(0, 2, 300), np.sort(impressions.integers(0, 40, 300))
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(size=300)
        logits = {"base": noise + 0.5 * label, "amen": noise + (0.5 + lift) * label}
        scores[seed] = Scores(
            label,
            user,
            fingerprint(user, user, user + fingerprint_of, label),
            {model: {"online": values, "frozen": values} for model, values in logits.items()},
        )
        write_scores(folder / f"seed_{seed}" / "scores.npz", scores[seed])
        rows += [
            _row(model, seed, 0.7 + 0.1 * lift * (model == "amen"), split=split, history=history)
            for model in logits
            for history in ("online", "frozen")
        ]
    config = _CONFIG | {key.replace("__", "."): value for key, value in config.items()}
    described = {
        "name": dataset,
        "origin": "a <file>",
        "test_fingerprint": scores[0].fingerprint,
        "impressions": {"train": round(1000 * config["data.label_share"]), "test": 300},
    }
    results.write_results(
        folder / "results.json",
        {"config": config, "jax": "0.10.2", "devices": ["cpu:0"], "dataset": described},
        rows,
        differences=significance.differences(scores, split, unit="user", resamples=20),
    )
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three label fractions, another data set with a random split, one that has not ended."""
    folder = tmp_path_factory.mktemp("runs")
    _make_run(folder / "labels <100>", 0.3)
    _make_run(folder / "labels_20", 1.2, data__label_share=0.2)
    _make_run(folder / "labels_5", 0.0, data__label_share=0.05)
    _make_run(folder / "other", 0.0, "logs", 7, "random", data__split="random")
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "config.json").write_text("{}")
    (folder / "folder of something else").mkdir()
    return folder


def _many(runs, output="report.html", *patterns):
    patterns = patterns or ("labels*", "other")
    return page.write_many([str(runs / pattern) for pattern in patterns], runs / output, "command")


def test_between_runs_is_the_difference_of_their_scores(runs):
    first, other = (workdirs.read(runs / name) for name in ("labels <100>", "labels_20"))
    theirs = significance.resample(first.scores(), unit="user", resamples=20)
    entries = significance.differences_of_runs(other, first, theirs)
    assert [(e["model"], e["reference"]) for e in entries[::8]] == [
        ("base", "base"),
        ("amen", "amen"),
    ]
    by_model = {e["model"]: e for e in entries if e["metric"] == "auc"}
    assert by_model["base"]["mean"] == by_model["base"]["high"] == 0
    assert by_model["base"]["verdict"] == "no difference"
    kept = first.scores()[0].label, first.scores(), other.scores()
    aucs = [
        [ctr.auc(kept[0], side[seed].logits["amen"]["frozen"]) for seed in range(2)]
        for side in kept[1:]
    ]
    assert by_model["amen"]["mean"] == pytest.approx(np.mean(aucs[1]) - np.mean(aucs[0]))
    assert by_model["amen"]["verdict"] == "better"
    table, notes = significance.between_runs([first, workdirs.read(runs / "other")])
    assert table.rows == [] and len(notes) == 2


def test_all_runs_are_on_the_page(runs):
    document = _Document(_many(runs).read_text(encoding="utf-8"))
    assert document.open == []
    full = "\n".join(document.text)
    for text in (
        "nif_jax: 4 runs",
        "labels <100>",
        "labels_20",
        "labels_5",
        "other (random split: leaky)",
        "random (leaky)",
        "amen of labels <100>",
        "AUC, pt",
        "no difference",
        "better",
        "a <file>",
        "0.10.2",
        "other cannot be compared: no other run has the same test impressions.",
        "Labels saved at equal AUC",
        "data.label_share",
        "GAUC on online histories is biased",
        "95 %",
        "cpu:0",
    ):
        assert text in full, text
    assert len([tag for tag, _ in document.tags if tag == "img"]) == 1  # the curve


def test_many_runs_need_nothing_else_and_no_wide_table_leaves_its_box(runs):
    text = _many(runs).read_text(encoding="utf-8")
    assert re.search(r"https?://|url\(|@import|href|<script", text) is None
    assert text.count("<table>") == text.count('<div class="scroll"><table>') > 10


def test_tables_of_many_runs_as_markdown(runs):
    text = _many(runs, "tables.md").read_text(encoding="utf-8")
    assert text.startswith("# tables\n\n    command\n\n| data set | split")
    for part in (r"| labels \<100> |", "## Labels saved", "- **leaky**: "):
        assert part in text, part
    assert re.search(r"\| data.label_share +\| 1.0 ", text)
    assert "HR@k" not in text
    with pytest.raises(workdirs.WorkdirError, match=r"report\.pdf ends neither in \.html"):
        _many(runs, "report.pdf")


@pytest.mark.parametrize("name", ["a|b_*c*", "<b>x", "[a](b) `c` $d$ better"])
def test_any_name_of_a_run_is_shown_as_it_is(name, tmp_path):
    for folder in (name, "other"):
        _make_run(tmp_path / folder, 0.1, f"data of {name}")
    patterns = [str(tmp_path / "*")]
    text = page.write_many(patterns, tmp_path / "tables.md", "command").read_text()
    cells = re.split(r"(?<!\\)\|", next(line for line in text.splitlines() if "| frozen" in line))
    shown = [re.sub(r"\\([^a-z\s])", r"\1", cell.strip()) for cell in cells[1:]]
    assert shown[0] == f"data of {name}" and {name, "other"} >= {shown[2]}
    document = _Document(page.write_many(patterns, tmp_path / "a.html", "command").read_text())
    assert document.open == [] and name in document.text and "b" not in dict(document.tags)


def test_one_run_has_its_own_page(runs):
    text = _many(runs, "one.html", "other").read_text()
    assert text == page.write_report(runs / "other").read_text()
    assert "<h1>nif_jax: other (random split: leaky)</h1>" in text
    assert "Between runs" not in text


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("unfinished", r"unfinished has not finished \(no results\.json\).*again"),
        ("lab*", None),
        ("*", "unfinished has not finished"),
        (
            "lables_20",
            r"no workdir at .*lables_20\. Did you mean .*labels_20\? Finished ones: .*other",
        ),
        ("folder of something else", "is no workdir of a run"),
        ("nothing/*", "There is no finished workdir in .*nothing"),
    ],
)
def test_what_cannot_be_found_is_named_with_the_choices(runs, pattern, message):
    if message is None:
        assert len(workdirs.find([str(runs / pattern)] * 2)) == 3  # each once
        return
    with pytest.raises(workdirs.WorkdirError, match=message):
        workdirs.find([str(runs / pattern)])


def test_no_workdirs_is_an_error():
    with pytest.raises(workdirs.WorkdirError, match="--workdirs=runs/a,runs/b"):
        workdirs.find([])


def test_labels_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / part for part in ("a/x", "b/x", "b/y")]
    assert workdirs.labels(paths[1:]) == ["x", "y"]
    assert workdirs.labels(paths) == ["a/x", "b/x", "b/y"]
    assert workdirs.labels(paths[:1]) == ["x"]


def test_runs_without_scores_say_so(runs, tmp_path):
    found = json.loads((runs / "other" / "results.json").read_text())
    del found["run"]["dataset"]["test_fingerprint"]
    results.write_results(tmp_path / "old" / "results.json", found["run"], found["rows"])
    _make_run(tmp_path / "new", 0.1)
    for file in _make_run(tmp_path / "lost", 0.1).glob("seed_*/scores.npz"):
        file.unlink()
    full = _many(tmp_path, "report.html", "new", "old", "lost").read_text()
    assert "old cannot be compared: it kept no scores" in full
    assert "lost cannot be compared with new" in full
