"""metrics.jsonl, TensorBoard and the line of progress."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from nif_jax.metrics import writer


def _without_time(path):
    return [
        {key: value for key, value in record.items() if key != "time"}
        for record in writer.read_metrics(path / "metrics.jsonl")
    ]


def _events(folder):
    """All events of a TensorBoard folder: records of length, its checksum, bytes, theirs."""
    events = []
    for file in sorted(folder.glob("events.*")):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def _scalars(folder):
    return [
        (event.step, value.tag, value.simple_value)
        for event in _events(folder)
        for value in event.summary.value
    ]


def test_writes_json_lines_and_tensorboard(tmp_path):
    with writer.MetricWriter(tmp_path) as metrics:
        metrics.write(10, "base", {"train/loss": jnp.float32(0.5), "examples": np.int64(7)})
        metrics.write(5, "generator", {"train/loss": float("nan"), "validation/hr@10": None})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert first.pop("time") > 1.6e9
    assert first == {"step": 10, "stage": "base", "values": {"train/loss": 0.5, "examples": 7}}
    assert second["values"] == {"train/loss": None, "validation/hr@10": None}
    assert _scalars(tmp_path / "tensorboard" / "base") == [
        (10, "train/loss", 0.5),
        (10, "examples", 7.0),
    ]
    assert _scalars(tmp_path / "tensorboard" / "generator") == []


def test_lines_are_there_before_close(tmp_path):
    metrics = writer.MetricWriter(tmp_path)
    metrics.write(1, "base", {"a": 1.0})
    assert _without_time(tmp_path) == [{"step": 1, "stage": "base", "values": {"a": 1.0}}]
    metrics.close()
    metrics.close()


def _train(metrics, stage, start, stop):
    for step in range(start, stop + 1):
        metrics.write(step, stage, {"train/loss": 1 / step})


def test_a_resumed_file_equals_an_unbroken_one(tmp_path):
    with writer.MetricWriter(tmp_path / "unbroken") as metrics:
        _train(metrics, "base", 1, 3)
        _train(metrics, "generator", 1, 4)
    with writer.MetricWriter(tmp_path / "resumed") as metrics:
        _train(metrics, "base", 1, 3)
        _train(metrics, "generator", 1, 3)  # killed here; the last checkpoint was of step 2
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "sta')  # half a line
    with writer.MetricWriter(tmp_path / "resumed") as metrics:
        metrics.truncate_after(3, "base")
        metrics.truncate_after(2, "generator")
        _train(metrics, "generator", 3, 4)
    assert _without_time(tmp_path / "resumed") == _without_time(tmp_path / "unbroken")
    starts = [
        event.step
        for event in _events(tmp_path / "resumed" / "tensorboard" / "generator")
        if event.session_log.status == 1
    ]
    assert starts == [3]  # TensorBoard forgets steps from 3 on, as the file does


def test_truncating_keeps_other_stages_and_can_forget_all(tmp_path):
    with writer.MetricWriter(tmp_path) as metrics:
        metrics.truncate_after(5, "base")  # nothing yet
        metrics.write(0, "base", {"a": 1})
        metrics.write(9, "generator", {"a": 2})
        metrics.truncate_after(-1, "base")
        metrics.write(0, "base", {"a": 3})
    assert [(r["stage"], r["values"]["a"]) for r in _without_time(tmp_path)] == [
        ("generator", 2),
        ("base", 3),
    ]


def test_disabled_writes_nothing(tmp_path):
    with writer.MetricWriter(tmp_path / "workdir", enabled=False) as metrics:
        metrics.write(1, "base", {"a": 1})
        metrics.truncate_after(0, "base")
        metrics.flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.zeros(2), "0.5", {}])
def test_a_value_that_is_not_one_number(tmp_path, value):
    with writer.MetricWriter(tmp_path) as metrics, pytest.raises(TypeError, match="train/loss"):
        metrics.write(1, "base", {"train/loss": value})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_bfloat16_is_a_number(tmp_path):
    with writer.MetricWriter(tmp_path) as metrics:
        metrics.write(1, "base", {"a": jnp.bfloat16(0.5)})
    assert _without_time(tmp_path)[0]["values"] == {"a": 0.5}


@pytest.mark.parametrize("line", ["not json", "[]", '{"step": 1}', "3"])
def test_a_corrupt_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "stage": "base", "time": 0, "values": {}}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        writer.read_metrics(path)


def test_progress_prints_rate_and_time_left(caplog):
    now = iter([0.0, 30.0, 40.0, 60.0])
    with (
        caplog.at_level(logging.INFO, logger="absl"),
        writer.Progress("base", total=1100, start=100, clock=lambda: next(now)) as progress,
    ):
        assert progress.update(200, loss=0.6931, examples=3000) == 100.0
        assert progress.update(300, loss=0.5, examples=12_345) == 1234.5
        assert progress.update(400, loss=0.5, examples=20) == 1.0
    first, second, third = caplog.messages
    # 100 steps took 30 s, and 900 remain. From there on 100 took 10 s, and 800 remain; then
    # 200 took 30 s, and 700 remain.
    assert first == "base 200/1100 (18 %)  loss 0.6931  100 examples/s  ETA 0:04:30"
    assert second == "base 300/1100 (27 %)  loss 0.5000  1,234 examples/s  ETA 0:01:20"
    assert third.endswith("ETA 0:01:45")


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys, caplog):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with caplog.at_level(logging.INFO, logger="absl"), writer.Progress("base", 10) as progress:
        progress.update(4, loss=0.25, examples=8)
    shown = capsys.readouterr().err
    assert "4/10" in shown
    assert "loss 0.2500" in shown
    assert caplog.messages == []


def test_progress_of_another_process_is_silent_but_measures(caplog, capsys):
    now = iter([0.0, 2.0])
    with (
        caplog.at_level(logging.INFO, logger="absl"),
        writer.Progress("base", 10, enabled=False, clock=lambda: next(now)) as progress,
    ):
        assert progress.update(1, loss=0.25, examples=8) == 4.0
    assert caplog.messages == []
    assert capsys.readouterr().err == ""
