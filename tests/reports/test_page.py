"""report.html: complete, self-contained, escaped."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nif_jax.reports import page, plots, results

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
    return {"model": model, "seed": seed, "split": "test", "history": "frozen", "auc": auc,
            "gauc": 0.6, "logloss": 0.5, "ne": 0.9, "ece": None, "pcoc": 1.0,
            "train_examples_per_second": 1000.0, "parameters": 10, "peak_rss_bytes": 2**20} | other


@pytest.fixture
def workdir(tmp_path):
    """A finished run that has everything."""
    folder = tmp_path / "run <1>"
    rows = [_row("base", 0, 0.711111), _row("base", 1, 0.722222), _row("nif", 0, 0.733333),
            _row("amen", 0, 0.744444, history="online"), _row("amen", 0, 0.7, split="random")]
    results.write_results(
        folder / "results.json", {"commit": "abc & <def>"}, rows,
        retrieval=[{"model": "popularity", "seed": 0, "split": "test", "targets": "all",
                    "hr@10": 0.0421}],
        buckets={"history_length": {"base": [
            {"lower": 0, "upper": 5, "count": 9, "auc": 0.6543},
            {"lower": 5, "upper": None, "count": 1, "auc": None}]}},
        notes=["<script>alert(1)</script>"])
    (folder / "config.json").write_text(json.dumps({"name": "$title </pre>", "alpha": 0.125}))
    records = [{"step": step, "stage": "base", "time": 0.0, "values": {"train/loss": 1 / step}}
               for step in (1, 2, 8)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    plots.reliability(np.array([0, 1]), np.array([-1.0, 1.0]), folder / "plots/reliability.png")
    plots.training_curves(records, folder / "plots" / "a_new_plot.png")
    return folder


def test_everything_is_on_the_page(workdir):
    path = page.write_report(workdir)
    assert path == workdir / "report.html"
    document = _Document(path.read_text(encoding="utf-8"))
    assert document.open == []
    for text in ("nif_jax: run <1>", "0.711111", "0.722222", "0.733333", "0.744444", "0.0421",
                 "0.6543", "random (leaky)", "<script>alert(1)</script>", "n/a", "0.1250",
                 "+2.22", "a new plot", page.CAPTIONS["reliability"]):
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
    assert "biased" not in text
    assert "leaks" not in text


def test_missing_parts_are_told(tmp_path):
    results.write_results(tmp_path / "results.json", {}, [])
    text = page.write_report(tmp_path).read_text(encoding="utf-8")
    for missing in ("no plots", "no metrics.jsonl", "no config.json", "No rows"):
        assert missing in text


def test_writing_again_replaces_and_leaves_no_other_file(workdir):
    before = page.write_report(workdir).read_text(encoding="utf-8")
    names = {file.name for file in workdir.iterdir()}
    assert page.write_report(workdir).read_text(encoding="utf-8") == before
    assert {file.name for file in workdir.iterdir()} == names == {
        "results.json", "config.json", "metrics.jsonl", "plots", "report.html"}


def test_errors_name_the_file(workdir):
    (workdir / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        page.write_report(workdir)
    (workdir / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        page.write_report(workdir)
