"""States of users: scores as from whole movelines, no lost events, and none of another artefact."""

import asyncio

import jax
import numpy as np
import pytest
import redis

from nif_jax.requests.objects import Event
from nif_jax.serve.errors import ServiceError
from nif_jax.serve.inputs import Inputs
from nif_jax.serve.limits import Limits
from nif_jax.serve.redis_states import RedisStates
from nif_jax.serve.state_bytes import StateBytes, StateFormatError
from nif_jax.serve.states import MemoryStates, Record
from nif_jax.serve.work import OfUser, Work
from tests.serve.conftest import serve
from tests.serve.test_app import together

CLOSE = 1e-5
both = pytest.mark.parametrize("store", ["memory", "redis"], indirect=True)


@pytest.fixture
def user(requests):
    """The request with the longest moveline."""
    return max(requests, key=lambda request: len(request.get("moveline", ())))


def with_state(request, **more):
    return {k: v for k, v in request.items() if k != "moveline"} | {"state": True} | more


def without_items(request):
    return {name: value for name, value in request.items() if name != "items"}


@both
def test_a_state_scores_as_the_whole_moveline(store, model, user):
    moveline, expected = user["moveline"], model.score(user).logit
    with serve(model, store) as client:
        for begin in range(0, len(moveline), 9):
            part = moveline[begin : begin + 9]
            answer = client.post("/events", json={"user_id": user["user_id"], "events": part})
            assert answer.json() == {"applied": len(part), "events": begin + len(part)}
        answer = client.post("/score", json=with_state(user)).json()
        np.testing.assert_allclose(answer["logit"], expected, atol=CLOSE)
        assert answer["events"] == len(moveline)
        best = client.post("/recommend", json=without_items(with_state(user))).json()
        (like,) = model.recommend(without_items(user), 10)
        assert best["items"] == like.item_id
        early = with_state(user, timestamp=moveline[-1]["timestamp"] - 1)
        error = client.post("/score", json=early).json()["error"]
        assert error["field"] == "timestamp" and "earlier than the last event" in error["message"]
        missing = client.post("/score", json=with_state(user, user_id="nobody"))
        assert missing.status_code == 404 and missing.json()["error"]["field"] == "user_id"
        metrics = client.get("/metrics").text
        assert f"nif_jax_events_total {float(len(moveline))}" in metrics
        assert ("nif_jax_state_users 1.0" in metrics) == isinstance(store, MemoryStates)


@both
def test_calls_at_once_lose_no_event_and_a_call_again_adds_none(store, model, user):
    event, name = user["moveline"][0], {"user_id": "one"}
    with serve(model, store) as client:

        def send(**more):
            return client.post("/events", json=name | {"events": [event]} | more)

        answers = together([lambda n=n: send(id=f"call {n}") for n in range(30)])
        assert sorted(answer.json()["events"] for answer in answers) == list(range(1, 31))
        again = together([lambda n=n: send(id=f"call {n}") for n in range(30)])
        assert {str(answer.json()) for answer in again} == {"{'applied': 0, 'events': 30}"}
        assert send(after=30).json() == {"applied": 1, "events": 31}
        refused = send(after=30)
        assert refused.status_code == 409 and refused.json()["error"]["field"] == "after"
        assert "the state has 31 events" in refused.json()["error"]["message"]
        late = client.post("/events", json=name | {"events": [event | {"timestamp": 1}]})
        assert late.json()["error"]["field"] == "events"
        assert send(reset=True).json() == {"applied": 1, "events": 1}


def test_a_state_has_a_largest_size(model, user):
    body = {"user_id": "one", "events": [user["moveline"][0]] * 3}
    with serve(model, state_events=5) as client:
        assert client.post("/events", json=body).json()["events"] == 3
        full = client.post("/events", json=body)
        assert full.status_code == 422 and "has 3 events, and holds 5" in full.text
        assert client.post("/events", json=body | {"reset": True}).json()["events"] == 3


def test_the_profile_of_events_is_that_of_scores(model, requests):
    feature, values = next(iter(model.vocabulary.profile.items()))
    profile = {feature: str(values[-1])}
    request = requests[5] | {"user_id": "unknown", "profile": profile}
    events = {"user_id": "unknown", "events": request["moveline"]}
    with serve(model) as client:
        client.post("/events", json=events | {"events": events["events"][:1]})
        client.post("/events", json=events | {"events": events["events"][1:], "profile": profile})
        ask = with_state(request)
        assert client.post("/score", json=ask).json()["error"]["field"] == "profile"
        del ask["profile"]
        answer = client.post("/score", json=ask).json()
    np.testing.assert_allclose(answer["logit"], model.score(request).logit, atol=CLOSE)


def test_an_update_does_not_change_what_others_read(model, user):
    work, inputs = Work(model, 100), Inputs(Limits(), model.vocabulary.profile)

    def add(record, events):
        given = inputs.events({"user_id": "3", "events": events})
        return work.update([OfUser(given, record)])[0][0]

    first = add(None, user["moveline"][:4])
    before = jax.tree.map(np.copy, first)
    add(first, user["moveline"][4:9])
    jax.tree.map(np.testing.assert_array_equal, first, before)


@pytest.fixture
def record(model, user):
    """Of 70 events, more than the space that a state begins with."""
    event = Event(**user["moveline"][-1])
    state = model.new_state(user["user_id"], moveline=[event] * 70)
    return Record(state._replace(generator=jax.tree.map(np.asarray, state.generator)), ("a", "b"))


def test_bytes_are_the_record_and_other_bytes_are_refused(model, record):
    form = StateBytes("digest", model.new_state())
    value = form.write(record)
    found = form.read(value)
    assert found.ids == record.ids and found.state.size == record.state.size
    jax.tree.map(np.testing.assert_array_equal, found.state, record.state)
    places = np.random.default_rng(0).integers(len(value), size=200)
    flipped = [value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :] for at in places.tolist()]
    for other in [b"", b"[]\n", b"\x80\x04", value[:-8], value + b"\0", *flipped]:
        with pytest.raises(StateFormatError, match="damaged"):
            form.read(other)
    with pytest.raises(StateFormatError, match="of another artefact"):
        StateBytes("other", model.new_state()).read(value)


def test_memory_keeps_the_users_that_were_used_last(record):
    async def change(_):
        return record, None

    async def run():
        states = MemoryStates(3 * record.nbytes)
        for user in "abc":
            await states.update(user, change)
        await states.read("a")
        await states.update("d", change)
        assert [bool(await states.read(user)) for user in "abcd"] == [True, False, True, True]
        assert len(states) == 3 and states.nbytes == 3 * record.nbytes

    asyncio.run(run())


def test_two_services_share_the_states_of_redis(redis_server, digest, model, user, record):
    """Each changes the same user at the same time; and a state of another artefact is not read."""
    redis_server.flush()
    form = StateBytes(digest, model.new_state())

    def states(name=digest, form=form):
        return RedisStates(redis_server.url, name, form, 100)

    async def add(store, number):
        async def change(before):
            await asyncio.sleep(0.001)
            ids = (*(before.ids if before else ()), str(number))
            return Record(record.state, ids), None

        await store.update("u", change)

    async def run():
        one, two = states(), states()
        await asyncio.gather(*(add((one, two)[n % 2], n) for n in range(30)))
        found = await one.read("u")
        assert sorted(map(int, found.ids)) == list(range(30))
        other = states("0" * 64, StateBytes("0" * 64, model.new_state()))
        assert await other.read("u") is None
        with redis.Redis.from_url(redis_server.url) as client:
            (key,) = client.keys()
            assert 0 < client.ttl(key) <= 100
            value = client.get(key)
            client.set(key, value[:-1] + bytes([value[-1] ^ 1]))
        with pytest.raises(ServiceError, match="cannot be read: it is damaged") as error:
            await two.read("u")
        assert error.value.status == 503
        for store in (one, two, other):
            await store.close()

    asyncio.run(run())


def test_without_redis_states_fail_clearly_and_come_back(redis_server, digest, model, user):
    redis_server.flush()
    store = RedisStates(redis_server.url, digest, StateBytes(digest, model.new_state()), 100)
    body = {"user_id": user["user_id"], "events": user["moveline"]}
    with serve(model, store) as client:
        assert client.post("/events", json=body).status_code == 200
        expected = client.post("/score", json=with_state(user)).json()
        redis_server.kill()
        for path, sent in (("/events", body), ("/score", with_state(user))):
            answer = client.post(path, json=sent)
            assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
            assert answer.json()["error"]["message"].startswith("Redis, which has the states, does")
        assert "does not answer" in client.get("/health").json()["states"]
        assert client.post("/score", json=user).status_code == 200
        redis_server.start()
        assert client.post("/score", json=with_state(user)).json() == expected
        assert client.get("/health").json()["states"] == "ok"
