"""Scores of the service are those of the model, whatever else arrives, fails or is late."""

import concurrent.futures
import itertools
import socket
import threading
import time

import numpy as np
import pytest

from nif_jax.serve import warm_up
from nif_jax.serve.limits import Limits
from nif_jax.serve.metrics import compiled
from nif_jax.serve.work import Work
from tests.serve.conftest import serve

CLOSE = 1e-5


def together(calls):
    """Results of functions that run at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def post(client, path, body):
    return lambda: client.post(path, json=body)


@pytest.fixture
def held(monkeypatch):
    """Lets the model thread wait in every score until the event is set."""
    go, score = threading.Event(), Work.score

    def wait(self, inputs):
        assert go.wait(20)
        return score(self, inputs)

    monkeypatch.setattr(Work, "score", wait)
    yield go
    go.set()


def test_many_requests_at_once_have_the_scores_of_each_alone(model, requests):
    expected = [model.score(request).logit for request in requests]
    bad = {"timestamp": 1, "scene": "moon", "items": ["1"], "user_id": "3"}
    with serve(model) as client:
        mixed = [*requests, *[bad] * 12]
        order = np.random.default_rng(0).permutation(len(mixed))
        answers = together([post(client, "/score", mixed[place]) for place in order])
        sizes = client.get("/metrics").text
    for place, answer in zip(order, answers, strict=True):
        if place >= len(requests):
            assert answer.status_code == 422 and answer.json()["error"]["field"] == "scene"
            continue
        assert answer.status_code == 200
        np.testing.assert_allclose(answer.json()["logit"], expected[place], atol=CLOSE)
        probability = 1 / (1 + np.exp(-expected[place].astype(float)))
        np.testing.assert_allclose(answer.json()["probability"], probability, atol=CLOSE)
    assert "nif_jax_candidates_total" in sizes
    (batches,) = (
        float(line.split()[1])
        for line in sizes.splitlines()
        if line.startswith('nif_jax_batch_requests_count{kind="score"}')
    )
    assert batches < len(mixed) / 2


def test_a_fault_of_the_model_fails_one_request_of_its_batch(model, requests, monkeypatch, held):
    waiting = Work.score

    def fail(self, inputs):
        if any(one.row["items"] == ["poison"] for one in inputs):
            raise ZeroDivisionError("a fault")
        return waiting(self, inputs)

    monkeypatch.setattr(Work, "score", fail)
    poison = requests[0] | {"items": ["poison"]}
    with serve(model) as client:
        calls = [post(client, "/score", body) for body in [*requests[:5], poison, *requests[5:9]]]
        with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
            futures = [pool.submit(call) for call in calls]
            while client.service.in_progress < len(calls):
                time.sleep(0.01)
            held.set()
            answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200] * 5 + [500] + [200] * 4
    assert answers[5].json()["error"]["message"].startswith("an error of the service")
    for body, answer in zip(requests[:5], answers, strict=False):
        np.testing.assert_allclose(answer.json()["logit"], model.score(body).logit, atol=CLOSE)


def test_overload_is_refused_and_late_requests_are_answered(model, requests, held):
    with serve(model, requests=4, seconds=0.5) as client:
        answers = together([post(client, "/score", request) for request in requests[:9]])
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [429] * 5 + [504] * 4
        for answer in answers:
            assert int(answer.headers["Retry-After"]) >= 1
        held.set()
        answer = client.post("/score", json=requests[0])
        np.testing.assert_allclose(
            answer.json()["logit"], model.score(requests[0]).logit, atol=CLOSE
        )
        assert client.get("/health").json()["status"] == "ok"


def test_a_body_that_does_not_end_is_given_up(model, requests):
    with serve(model, seconds=0.3) as client:
        headers = {"Content-Type": "application/json"}
        endless = itertools.repeat(b" " * 100_000, 100)
        assert client.post("/score", content=endless, headers=headers).status_code == 413
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=20) as slow:
            slow.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 100\r\n\r\n{")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        with socket.create_connection(address, timeout=20) as ended:
            ended.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            ended.sendall(b"Content-Length: 100\r\n\r\n{")
        with socket.create_connection(address, timeout=20) as other:
            other.sendall(b"no HTTP\r\n\r\n")
            assert other.recv(1000).startswith(b"HTTP/1.1 400")
        assert client.post("/score", json=requests[0]).status_code == 200
        assert client.service.in_progress == 0


def test_recommendations_are_those_of_the_model(model, requests):
    with serve(model) as client:
        for request in requests[:6]:
            body = {name: value for name, value in request.items() if name != "items"}
            answer = client.post("/recommend", json=body | {"k": 5}).json()
            (expected,) = model.recommend(body, 5)
            assert answer["items"] == expected.item_id
            np.testing.assert_allclose(answer["logit"], expected.logit, atol=CLOSE)
        seen = client.post("/recommend", json=body | {"k": 50, "exclude_seen": False}).json()
        assert {event["item_id"] for event in body["moveline"]} <= set(seen["items"])


def test_no_request_compiles(model, requests):
    limits = Limits(batch=16)
    count = compiled()
    warm_up.warm_up(Work(model, limits.state_events), limits)
    before = count[0]
    assert before
    with serve(model, batch=16) as client:
        together([post(client, "/score", request) for request in requests])
        for items in (1, 2, 17, 130, 1025):
            client.post("/score", json=requests[0] | {"items": ["1"] * items})
        body = {name: value for name, value in requests[-1].items() if name != "items"}
        assert client.post("/recommend", json=body).status_code == 200
        events = {"user_id": "new", "events": body["moveline"]}
        assert client.post("/events", json=events).status_code == 200
        state = body | {"user_id": "new", "state": True, "items": ["1", "2"]}
        del state["moveline"]
        assert client.post("/score", json=state).status_code == 200
        del state["items"]
        assert client.post("/recommend", json=state).status_code == 200
    assert count[0] == before


def test_health_and_metrics(model, requests):
    with serve(model) as client:
        client.post("/score", json=requests[1])
        assert client.get("/health").json() == {
            "status": "ok",
            "variant": model.variant,
            "states": "ok",
        }
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    assert 'nif_jax_requests_total{endpoint="score",status="200"} 1.0' in lines
    assert f"nif_jax_candidates_total {float(len(requests[1]['items']))}" in lines
    assert 'nif_jax_request_seconds_count{endpoint="score"} 1.0' in lines
    assert "nif_jax_requests_in_progress 0.0" in lines
