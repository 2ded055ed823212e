"""Many requests at once each get their own answer, and the event loop computes nothing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.errors import EngineError
from tests.server.gate import Gate
from tests.server.inputs import image_file, text
from tests.server.service import Direct, Service


def test_each_request_gets_its_own_answer(client: httpx.Client, images: Direct, texts: Direct) -> None:
    def ask(seed: int) -> dict[str, Any]:
        heads = {"heads": 1 + seed % 3}
        content = image_file(seed) if seed % 2 else text(seed).encode()
        reply = client.post("/predict", params=heads, content=content, headers={"x-request-id": f"seed-{seed}"})
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(ask, range(200)))
    for seed, reply in enumerate(replies):
        assert reply["id"] == f"seed-{seed}"
        [prediction] = reply["predictions"]
        if seed % 2:
            images.check(prediction, image_file(seed), heads=1 + seed % 3)
        else:
            texts.check(prediction, text(seed), heads=1 + seed % 3)
    assert len({reply["predictions"][0]["probability"] for reply in replies}) > 150


def test_probes_answer_while_an_engine_computes(models: Path, gate: Gate) -> None:
    with Service(models) as service, ThreadPoolExecutor(1) as pool:
        client = service.wait().client
        gate.forget()
        gate.open.clear()
        slow = pool.submit(client.post, "/predict", content=image_file(0))
        gate.entered.acquire()
        for path in ("/healthz", "/readyz", "/models", "/metrics"):
            assert client.get(path).status_code == 200
        assert not slow.done()
        gate.open.set()
        assert slow.result().status_code == 200


def test_not_ready_until_warm_but_alive(models: Path, gate: Gate) -> None:
    gate.open.clear()
    with Service(models) as service:
        gate.entered.acquire()  # the warm-up has begun
        assert service.client.get("/healthz").json() == {"status": "alive"}
        for reply in (
            service.client.get("/readyz"),
            service.client.get("/models"),
            service.client.post("/predict", content=b"ball"),
        ):
            assert reply.status_code == 503
            assert reply.json()["code"] == "not_ready"
            assert "loading" in reply.json()["error"]
            assert reply.headers["retry-after"] == "1"
        gate.open.set()
        assert service.wait().client.get("/readyz").json() == {"status": "ready"}
        assert service.client.post("/predict", content=b"ball").status_code == 200


def test_an_engine_that_fails_answers_500_and_goes_on(
    models: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with Service(models) as service:
        client = service.wait().client
        for failure in (EngineError("the secret of the engine"), RuntimeError("the secret of the engine")):
            gate.failure = failure
            reply = client.post("/predict", content=b"ball")
            assert (reply.status_code, reply.json()["code"]) == (500, "engine_failure")
            assert "tiny-text" in reply.json()["error"]
            assert "secret" not in reply.text
            assert reply.json()["id"] in caplog.text
        gate.failure = None
        assert client.post("/predict", content=b"ball").status_code == 200


def test_an_unexpected_error_is_a_500_in_the_one_shape(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("the secret")

    with Service(models) as service:
        client = service.wait().client
        with monkeypatch.context() as patch:
            patch.setattr("server.predict_api.answer_reply", broken)
            reply = client.post("/predict", content=b"ball")
        assert (reply.status_code, reply.json()["code"]) == (500, "internal_error")
        assert "secret" not in reply.text
        assert reply.json()["id"] == reply.headers["x-request-id"]
        assert reply.json()["id"] in caplog.text
        assert client.post("/predict", content=b"ball").status_code == 200


def test_open_requests_finish_when_the_service_stops(models: Path, gate: Gate) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Service(models) as service:
            client = httpx.Client(base_url=service.wait().client.base_url, timeout=60)
            gate.forget()
            gate.open.clear()
            slow = pool.submit(client.post, "/predict", content=image_file(0))
            gate.entered.acquire()
            service.stop()
            assert any(not accepts(f"{client.base_url}/healthz") for _ in range(10_000))
            gate.open.set()
            assert slow.result().status_code == 200
        client.close()


def accepts(url: str) -> bool:
    """Whether a new connection is accepted and answered."""
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
