"""Every malformed request gets an error that names its field, and the service goes on."""

import numpy as np
import pytest

from tests.serve.conftest import serve
from tests.serve.malformed import cases


@pytest.fixture(scope="module")
def client(model):
    with serve(model) as client:
        yield client


def test_malformed_requests_fail_with_a_named_field_and_others_do_not(client, model, requests):
    found = cases(action=str(model.vocabulary.action[0]))
    assert len({case.name for case in found}) == len(found) >= 40
    good, expected = requests[0], model.score(requests[0]).logit
    for case in found:
        answer = client.request(case.method, case.path, content=case.content, headers=case.headers)
        assert answer.status_code == case.status, (case.name, answer.text)
        error = answer.json()["error"]
        assert error["field"] == case.field, (case.name, error)
        assert case.words in error["message"] and len(error["message"]) < 500, (case.name, error)
        again = client.post("/score", json=good)
        np.testing.assert_allclose(again.json()["logit"], expected, atol=1e-5)
    assert client.service.in_progress == 0
    statuses = client.get("/metrics").text
    for status in {case.status for case in found}:
        assert f'status="{status}"' in statuses
