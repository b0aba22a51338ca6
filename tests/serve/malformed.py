"""Requests that cannot be served: what is sent, and the status, field and words of the answer."""

import json
from typing import NamedTuple

JSON = {"Content-Type": "application/json"}


class Case(NamedTuple):
    """One request, and its answer."""

    name: str
    path: str
    content: bytes
    status: int
    field: str
    words: str
    headers: dict = JSON
    method: str = "POST"


GOOD = {"timestamp": 1_604_300_000, "scene": "scene0", "items": ["1", "2"], "user_id": "3"}
EVENT = {"item_id": "1", "timestamp": 1_604_300_000, "scene": "scene0", "action": "click"}
EVENTS = {"user_id": "3", "events": [EVENT]}


def _of(good, path, status, cases):
    """Cases that differ from a good body in some fields each."""
    for name, (changes, field, words) in cases.items():
        body = {key: value for key, value in (good | changes).items() if value is not ...}
        yield Case(name, path, json.dumps(body).encode(), status, field, words)


def _event(**changes):
    return {"events": [EVENT, EVENT | changes]}


def cases(action):
    """All of them; `action` is one of the data."""
    known = EVENT | {"action": action, "label": 1}
    recommend = {name: value for name, value in GOOD.items() if name != "items"}
    return [
        *_bodies(),
        *_of(GOOD, "/score", 422, _scores()),
        *_of(GOOD, "/score", 422, _movelines(known)),
        *_of(recommend, "/recommend", 422, _recommendations()),
        *_of(EVENTS, "/events", 422, _events(known)),
    ]


def _bodies():
    """What is no JSON object, or is sent to the wrong place."""
    text = json.dumps(GOOD)
    deep = b'{"items": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    twice = text[:-1].encode() + b', "scene": "scene1"}'
    plain = {"Content-Type": "text/plain"}
    return [
        Case("no body", "/score", b"", 400, "body", "is no JSON"),
        Case("broken JSON", "/score", text[:-1].encode(), 400, "body", "is no JSON"),
        Case("rest behind", "/score", text.encode() + b"x", 400, "body", "is no JSON"),
        Case("a list", "/score", b"[]", 400, "body", "is a JSON list; send an object"),
        Case("null", "/recommend", b"null", 400, "body", "is a JSON NoneType"),
        Case("NaN", "/score", b'{"timestamp": NaN}', 400, "body", "has NaN"),
        Case("Infinity", "/score", b'{"until": -Infinity}', 400, "body", "has -Infinity"),
        Case("a key twice", "/score", twice, 400, "scene", "has the key 'scene' twice"),
        Case("nested deep", "/score", deep, 400, "body", "is nested too deep"),
        Case("digits", "/score", b'{"until": ' + b"9" * 5000 + b"}", 400, "body", "is no JSON"),
        Case("Latin-1", "/score", b'{"scene": "\xe9"}', 400, "body", "is no UTF-8: byte 11"),
        Case("UTF-16", "/score", text.encode("utf-16"), 400, "body", "is no UTF-8: byte 0"),
        Case("surrogate", "/score", rb'{"scene": "\ud800"}', 400, "body", "half a character"),
        Case("huge", "/score", b" " * (1 << 21), 413, "body", "more than 1048576 bytes"),
        Case("other type", "/score", text.encode(), 415, "Content-Type", "'text/plain'", plain),
        Case("no type", "/events", text.encode(), 415, "Content-Type", "''; send app", {}),
        Case(
            *("charset", "/score", text.encode(), 415, "Content-Type", "'utf-16'; send UTF-8"),
            {"Content-Type": "application/json; charset=utf-16"},
        ),
        Case(
            *("compressed", "/score", b"\x1f\x8b", 415, "Content-Encoding", "'gzip'; send"),
            JSON | {"Content-Encoding": "gzip"},
        ),
        Case("no such path", "/scores", b"{}", 404, "path", "POST /scores: Not Found; there is"),
        Case("a path outside", "/../manifest.json", b"{}", 404, "path", "Not Found"),
        Case("method", "/score", b"", 405, "path", "GET /score: Method Not", JSON, "GET"),
        Case("method of health", "/health", b"{}", 405, "path", "POST /health"),
    ]


def _scores():
    """name -> (changes of a good request, field, words)."""
    return {
        "no fields": (dict.fromkeys(GOOD, ...), "timestamp", "timestamp is None"),
        "no items": ({"items": ...}, "items", "has no items"),
        "empty items": ({"items": []}, "items", "has no items"),
        "items as text": ({"items": "12"}, "items", "items is '12'; give a list"),
        "an item that is null": ({"items": ["1", None]}, "items", "items: one is null"),
        "an item that is a list": ({"items": [["1"]]}, "items", "items is ['1']"),
        "too many items": ({"items": ["1"] * 2001}, "items", "2001 entries; give at most 2000"),
        "unknown field": (
            {"articles": ["1"]},
            "articles",
            "there is no field 'articles'; choose from",
        ),
        "unknown scene": ({"scene": "moon"}, "scene", "scene 'moon' is none of scene0"),
        "no scene": ({"scene": ...}, "scene", "scene None is none of"),
        "scene as a fraction": ({"scene": 0.5}, "scene", "scene is 0.5; give text"),
        "negative time": ({"timestamp": -5}, "timestamp", "timestamp -5 is not from 0 to"),
        "far time": ({"timestamp": 2**62}, "timestamp", "give seconds"),
        "time of 65 bits": ({"timestamp": 2**64}, "timestamp", "64 bits do not hold"),
        "time as text": ({"timestamp": "today"}, "timestamp", "timestamp is 'today'"),
        "time as a fraction": ({"timestamp": 1.5}, "timestamp", "timestamp is 1.5"),
        "true as a time": ({"timestamp": True}, "timestamp", "timestamp is True"),
        "false as an item": ({"items": [False]}, "items", "items is False"),
        "negative until": ({"until": -1}, "until", "until -1 is not from 0 to"),
        "least until": ({"until": -(2**63)}, "until", "until -9223372036854775808 is not"),
        "no user": ({"user_id": ...}, "user_id", "has neither user_id nor moveline"),
        "user as an object": ({"user_id": {}}, "user_id", "user_id is {}"),
        "state as a number": ({"state": 1}, "state", "state is 1; give true or false"),
        "state and moveline": ({"state": True, "moveline": []}, "moveline", "the state has it"),
        "profile as a list": ({"profile": []}, "profile", "profile is []"),
        "unknown feature": ({"profile": {"shoe": "9"}}, "profile", "no user feature 'shoe'"),
    }


def _movelines(known):
    """Likewise; `known` is an event of the data."""
    return {
        "moveline as text": ({"moveline": "1"}, "moveline", "moveline is '1'"),
        "event as text": ({"moveline": ["1"]}, "moveline", "moveline, event 0 is '1'"),
        "event of no field": ({"moveline": [{"x": 1}]}, "moveline", "there is no field 'x'"),
        "event of the future": (
            {"moveline": [known | {"timestamp": 1_604_300_001}]},
            *("moveline", "an event at 1604300001 is later than the request"),
        ),
        "long moveline": ({"moveline": [EVENT] * 2001}, "moveline", "2001 entries"),
    }


def _recommendations():
    """Likewise."""
    return {
        "k of none": ({"k": 0}, "k", "k is 0; give 1 to 50"),
        "k of many": ({"k": 51}, "k", "k is 51; give 1 to 50"),
        "k as text": ({"k": "5"}, "k", "k is '5'; give a whole number"),
        "items of a recommendation": ({"items": ["1"]}, "items", "there is no field 'items'"),
    }


def _events(known):
    """Likewise."""
    return {
        "events of nobody": ({"user_id": ...}, "user_id", "user_id is missing"),
        "a long name": ({"user_id": "x" * 257}, "user_id", "1 to 256 characters"),
        "no events": ({"events": []}, "events", "events is []; give a list"),
        "many events": ({"events": [EVENT] * 257}, "events", "give at most 256"),
        "unknown action": (_event(action="fly"), "events", "action 'fly' is none of"),
        "label of 2": (_event(label=2), "events", "label is 2; choose from 1, 0 and -1"),
        "earlier event": (
            {"events": [known | {"timestamp": 9}, known | {"timestamp": 8}]},
            *("events", "event 1: the event at 8 is earlier than the last one, at 9"),
        ),
        "after less than none": ({"after": -1}, "after", "after is -1"),
    }
