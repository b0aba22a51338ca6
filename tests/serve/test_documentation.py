"""The examples of docs/serving.md, sent as they stand, are answered as it says."""

import json
import pathlib
import re

from nif_jax.serve import server
from nif_jax.serve.inputs import EVENTS, FIELDS, RECOMMEND, SCORE
from tests.serve.conftest import serve

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
EXAMPLE = re.compile(r"```json POST (\S+)\n(.*?)```\s*```json (\d+)\n(.*?)```", re.DOTALL)


def test_the_examples_are_answered_as_documented(model):
    examples = EXAMPLE.findall(TEXT)
    assert len(examples) >= 4
    with serve(model) as client:
        for path, body, status, text in examples:
            answer, expected = client.post(path, json=json.loads(body)), json.loads(text)
            assert answer.status_code == int(status), answer.text
            found = answer.json()
            assert list(found) == list(expected)
            if "probability" not in expected:
                assert found == expected
            else:
                assert len(found["logit"]) == len(json.loads(body)["items"])
                assert found.get("events") == expected.get("events")
        metrics = client.get("/metrics").text
    for name in re.findall(r"`(nif_jax_\w+)`", TEXT.partition("### Metrics")[2]):
        assert f"# TYPE {name.removesuffix('_total')}" in metrics.replace("_total", ""), name


def test_every_flag_and_field_is_documented():
    text = TEXT.partition("## Service")[2]
    for action in server.parser()._actions:
        assert action.dest == "help" or f"--{action.dest}" in text, action.dest
    assert {*SCORE, *RECOMMEND, *EVENTS} == set(FIELDS)
    for field in (*EVENTS, "k", "exclude_seen", "state"):
        assert f"`{field}`" in text or f'"{field}"' in text, field
