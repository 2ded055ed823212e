"""The client against what may stand between it and the server, or in its place."""

import json
from typing import Any

import pytest

from server.client import Client, NotReady, Overloaded, Unreachable
from server.client.errors import UnexpectedReply
from tests.server.client.scripted import READY, Scripted, reply

PREDICTION = {
    "label": "cat", "index": 1, "probability": 0.9, "top_k": [{"label": "cat", "index": 1, "probability": 0.9}],
    "heads_used": 1, "heads_total": 1, "stopped_by": "all", "disagreement": None,
    "heads": [{"head": 0, "label": "cat", "probability": 0.9}],
}  # fmt: skip
REPLY: dict[str, Any] = {
    "id": "1", "model": "m", "version": "1", "engine": "e", "precision": "fp32", "vote": "logits",
    "predictions": [PREDICTION], "timing_ms": {"decode": 0, "queue": 0.5, "compute": 1, "total": 1.5},
}  # fmt: skip


def refusal(status: int, *headers: str, **more: float) -> bytes:
    return reply(status, json.dumps({"error": "Not now.", "code": "c", "id": "i", **more}).encode(), *headers)


def ok(**changed: Any) -> bytes:
    return reply(200, json.dumps(REPLY | changed).encode())


def test_fields_and_values_of_a_newer_server_do_no_harm() -> None:
    newer = {**PREDICTION, "stopped_by": "budget", "mood": "good"}
    with Scripted([ok(predictions=[newer], carbon={"grams": 1})]) as server, Client(server.url) as client:
        found = client.predict("a")
    assert found.predictions[0].stopped_by == "budget"
    assert found.predictions[0].disagreement is None


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (ok(id=1), "id: Input should be a valid string"),
        (ok(predictions=[{**PREDICTION, "label": None}]), r"predictions.0.label: Input should be a valid string"),
        (reply(200, b"{}"), "id: Field required"),
        (reply(200, b"<html>"), "all of it: Invalid JSON"),
        (reply(502, b"<h1>Bad Gateway</h1>"), "status 502 and is not from this kind of server: '<h1>Bad"),
        (reply(404, b"x" * 500), r"x{200}\.\.\.'$"),
        (reply(307, b"", "location: http://elsewhere/"), "redirects to 'http://elsewhere/'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
    ],
)
def test_replies_that_are_not_ours(said: bytes, problem: str) -> None:
    with Scripted([said]) as server, Client(server.url) as client, pytest.raises(UnexpectedReply, match=problem):
        client.predict("a")


def test_a_connection_that_breaks_in_a_reply() -> None:
    cut = ok()[:-10]
    with Scripted([cut]) as server, Client(server.url) as client, pytest.raises(Unreachable, match="ended 10 bytes"):
        client.predict("a")


def test_a_connection_that_breaks_before_a_reply_is_not_used_again() -> None:
    with Scripted([b""], [ok()]) as server, Client(server.url) as client:
        with pytest.raises(Unreachable, match="broke"):
            client.predict("a")
        assert client.predict("a").model == "m"


def test_connections_are_kept_and_a_closed_one_is_replaced() -> None:
    with Scripted([ok(), ok()], [ok(id="new")]) as server, Client(server.url) as client:
        assert [client.predict("a").id for _ in range(3)] == ["1", "1", "new"]


def test_a_connection_that_the_server_wants_closed_is() -> None:
    closing = reply(200, json.dumps(REPLY).encode(), "connection: close")
    with Scripted([closing], [ok()]) as server, Client(server.url) as client:
        assert [client.predict("a").id for _ in range(2)] == ["1", "1"]


def test_a_closed_client_opens_a_new_connection() -> None:
    with Scripted([READY], [READY]) as server, Client(server.url) as client:
        assert client.ready()
        client.close()
        assert client.ready()


def test_what_is_sent() -> None:
    with Scripted([READY, ok()]) as server, Client(f"{server.url}/behind/a/proxy/", api_key="secret") as client:
        client.ready()
        client.predict("a", model="a b&c", heads=2)
    assert [line for line, _ in server.requests] == [
        "GET /behind/a/proxy/readyz HTTP/1.1",
        "POST /behind/a/proxy/predict?model=a+b%26c&heads=2 HTTP/1.1",
    ]
    assert {headers["authorization"] for _, headers in server.requests} == {"Bearer secret"}


def test_the_server_learns_how_much_time_is_left_at_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("server.client.client.time.monotonic", lambda: now)
    monkeypatch.setattr("server.client.client.time.sleep", sleep)
    monkeypatch.setattr("server.client.client.random.uniform", lambda low, high: high)  # noqa: ARG005
    scripts = [refusal(429, "retry-after: 9", retry_after_ms=1000), refusal(503, "retry-after: 2"), refusal(503), ok()]
    with Scripted(scripts) as server, Client(server.url, retries=3) as client:
        client.predict("a", timeout_seconds=10)
    left = [line.split()[1].partition("timeout_ms=")[2] for line, _ in server.requests]
    assert left == ["10000.0", "8500.0", "5500.0", "4000.0"]


def test_no_wait_is_begun_that_the_timeout_forbids() -> None:
    scripts = [refusal(429, retry_after_ms=10_000)]
    with (
        Scripted(scripts) as server,
        pytest.raises(Overloaded) as caught,
        Client(server.url, retries=5, timeout_seconds=9) as client,
    ):
        client.predict("a")
    assert caught.value.retry_after_seconds == 10


def test_retries_end() -> None:
    scripts = [refusal(503, retry_after_ms=1)] * 3
    with (
        Scripted(scripts) as server,
        pytest.raises(NotReady, match=r"Not now\."),
        Client(server.url, retries=2) as client,
    ):
        client.models()
    assert len(server.requests) == 3
