"""Under load: requests share batches, heads are shed, and what would be late is refused; all on the real service."""

import json
import math
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from runtime.artifact import MANIFEST
from runtime.engines.base import Tensors
from runtime.preprocess import ImagePreprocessor
from server.schema import ErrorReply
from tests.artifacts import write_tiny_image_artifact
from tests.server.gate import Gate, flat_costs
from tests.server.inputs import image_file
from tests.server.service import Direct, Service
from tests.server.test_probes import grown, samples

pytestmark = [
    pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True),  # the gate is there
    pytest.mark.usefixtures("engine_name"),
]

IMAGE = "tiny-image"
MODEL = {"model": IMAGE}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as pool:
        yield pool


@pytest.fixture
def busy(models: Path, gate: Gate, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Iterator["Busy"]:
    """A service whose engine is held, with one image in it; full batches are cheapest."""
    monkeypatch.setattr("server.models.measure_costs", flat_costs(0.001))
    with Busy(models, gate, pool) as busy:
        yield busy


class Busy(Service):
    """A service whose engine is held in the trunk of a first image until `free`."""

    def __init__(self, models: Path, gate: Gate, pool: ThreadPoolExecutor, **settings: Any) -> None:
        super().__init__(models, **settings)
        self.gate = gate
        gate.only = IMAGE
        self._requests = pool

    def __enter__(self) -> "Busy":
        super().__enter__()
        self.wait()
        self.gate.forget()
        self.gate.open.clear()
        self.first = self.post(0, heads=1)
        self.gate.entered.acquire()
        return self

    def __exit__(self, *error: Any) -> None:
        self.gate.release()
        super().__exit__(*error)

    def post(self, seed: int, **params: Any) -> Future[httpx.Response]:
        """Send an image, in a thread."""
        return self._requests.submit(self.client.post, "/predict", params=params, content=image_file(seed))

    def free(self) -> None:
        """Let the engine go on."""
        self.gate.open.set()
        assert self.first.result().status_code == 200


def refused(reply: httpx.Response, status: int, code: str) -> ErrorReply:
    error = ErrorReply.model_validate_json(reply.content)
    assert (reply.status_code, error.code) == (status, code), error
    return error


def only(future: Future[httpx.Response]) -> dict[str, Any]:
    reply = future.result()
    assert reply.status_code == 200, reply.text
    [prediction] = reply.json()["predictions"]
    found: dict[str, Any] = prediction
    return found


def test_mixed_wishes_share_a_batch_and_get_the_answers_they_get_alone(busy: Busy, images: Direct) -> None:
    wishes: list[dict[str, Any]] = [{}, {"heads": 1}, {"heads": 2}, {"min_confidence": 0.6}, {"min_confidence": 0.0}]
    wishes = [wishes[seed % 5] for seed in range(15)]
    before = samples(busy.client)
    futures = [busy.post(seed, **wish) for seed, wish in enumerate(wishes)]
    busy.wait_for(15, IMAGE)
    busy.free()
    for seed, (wish, future) in enumerate(zip(wishes, futures, strict=True)):
        images.check(only(future), image_file(seed), **wish)
    after = samples(busy.client)
    assert grown(before, after, "neurotrails_batch_rows_count", **MODEL) == 2
    assert grown(before, after, "neurotrails_batch_rows_sum", **MODEL) == 16


def test_a_sure_input_is_answered_while_its_batch_goes_on(busy: Busy, images: Direct) -> None:
    thorough, sure = busy.post(1), busy.post(2, min_confidence=0)
    busy.wait_for(2, IMAGE)
    busy.gate.heads_open.clear()
    busy.free()
    images.check(only(sure), image_file(2), min_confidence=0)
    assert not thorough.done()
    busy.gate.heads_open.set()
    images.check(only(thorough), image_file(1))


def test_a_large_request_is_split_and_keeps_its_order(busy: Busy, images: Direct) -> None:
    before = samples(busy.client)
    files = [("file", image_file(seed)) for seed in range(40)]
    reply = busy._requests.submit(busy.client.post, "/predict", files=files)
    busy.wait_for(40, IMAGE)
    busy.free()
    for seed, prediction in enumerate(reply.result().json()["predictions"]):
        images.check(prediction, image_file(seed))
    after = samples(busy.client)
    assert grown(before, after, "neurotrails_batch_rows_count", **MODEL) == 1 + 3
    assert grown(before, after, "neurotrails_queue_seconds_count", **MODEL) == 1  # that of the first input came before


def test_a_full_line_is_refused_and_goes_on(models: Path, gate: Gate, pool: ThreadPoolExecutor, images: Direct) -> None:
    with Busy(models, gate, pool, max_inputs=4, max_waiting_rows=5) as busy:
        admitted = [busy.post(seed) for seed in range(1, 5)]
        busy.wait_for(4, IMAGE)
        before = samples(busy.client)
        reply = busy.post(9).result()
        error = refused(reply, 429, "overloaded")
        assert "5 inputs wait for model 'tiny-image'; at most 5 may" in error.error
        assert error.retry_after_ms is not None
        assert 0 < error.retry_after_ms <= 1000 * int(reply.headers["retry-after"])
        assert busy.client.post("/predict", content=b"ball").status_code == 200  # the other model is free
        after = samples(busy.client)
        assert grown(before, after, "neurotrails_refusals_total", reason="overloaded") == 1
        busy.free()
        for seed, future in enumerate(admitted, 1):
            images.check(only(future), image_file(seed))
        busy.wait_for(0, IMAGE)
        images.check(only(busy.post(9)), image_file(9))


def test_a_full_line_is_refused_before_the_body_is_sent(models: Path, gate: Gate, pool: ThreadPoolExecutor) -> None:
    head = b"POST /predict?%s HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    with Busy(models, gate, pool, max_inputs=1, max_waiting_rows=1) as busy:
        for query, status in ((b"model=tiny-image", 429), (b"model=tiny-image&heads=no", 400)):
            with socket.create_connection(("127.0.0.1", busy.port)) as connection:
                connection.sendall(head % query)
                assert connection.recv(10_000).startswith(b"HTTP/1.1 %d " % status)
        busy.free()


def test_what_would_be_late_is_refused_in_advance(
    models: Path, gate: Gate, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.models.measure_costs", flat_costs(10.0))  # 40 seconds for all heads
    with Busy(models, gate, pool) as busy:
        reply = busy.post(1, timeout_ms=60_000).result()
        error = refused(reply, 429, "overloaded")
        assert "60 seconds" in error.error
        assert error.retry_after_ms is not None
        assert 6_000 <= error.retry_after_ms <= 12_000  # 60 seconds - 90 % of 60, and up to twice that
        assert math.ceil(error.retry_after_ms / 1000) == int(reply.headers["retry-after"])
        patient = busy.post(2, timeout_ms=100_000)
        busy.wait_for(1, IMAGE)
        cheap = busy.post(3, timeout_ms=80_000, heads=1)  # 20 + 40 + 20 seconds
        refused(cheap.result(), 429, "overloaded")
        busy.wait_for(1, IMAGE)
        busy.free()
        only(patient)


def test_a_late_answer_is_504_and_is_not_computed(busy: Busy) -> None:
    before = samples(busy.client)
    late = busy.post(1, timeout_ms=100).result()
    error = refused(late, 504, "deadline_exceeded")
    assert "100 ms" in error.error
    busy.wait_for(0, IMAGE)
    busy.free()
    assert only(busy.post(2))
    after = samples(busy.client)
    assert grown(before, after, "neurotrails_batch_rows_sum", **MODEL) == 2


def test_a_client_that_leaves_is_not_computed(busy: Busy) -> None:
    before = samples(busy.client)
    body = image_file(1)
    with socket.create_connection(("127.0.0.1", busy.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        busy.wait_for(1, IMAGE)
    busy.wait_for(0, IMAGE)
    busy.free()
    after = samples(busy.client)
    assert grown(before, after, "neurotrails_requests_total", route="/predict", method="POST", status="499") == 1
    assert grown(before, after, "neurotrails_batch_rows_sum", **MODEL) == 1


def test_a_bad_input_fails_alone(busy: Busy, images: Direct) -> None:
    preprocessor = images.artifact.preprocessor
    assert isinstance(preprocessor, ImagePreprocessor)
    poison = preprocessor.prepare(image_file(2))["image"]

    def poisoned(inputs: Tensors) -> bool:
        return any(np.array_equal(image, poison) for image in inputs["image"])

    busy.gate.refuses = poisoned
    futures = [busy.post(seed) for seed in range(1, 6)]
    busy.wait_for(5, IMAGE)
    busy.free()
    for seed, future in enumerate(futures, 1):
        if seed == 2:
            refused(future.result(), 500, "engine_failure")
        else:
            images.check(only(future), image_file(seed))


@pytest.mark.parametrize(("target", "reason"), [(1.0, "load"), (10_000.0, "deadline")])
def test_heads_are_shed_under_load_but_promises_are_kept(
    models: Path, images: Direct, monkeypatch: pytest.MonkeyPatch, target: float, reason: str
) -> None:
    monkeypatch.setattr("server.models.measure_costs", flat_costs(500.0))  # so slow that one input is a load
    with Service(models, min_heads=2, latency_target_seconds=target) as service:
        client = service.wait().client
        [model, _] = client.get("/models").json()["models"]
        assert (model["heads"], model["min_heads"]) == (3, 2)
        [shed] = client.post("/predict", content=image_file(1)).json()["predictions"]
        assert (shed["heads_used"], shed["stopped_by"]) == (2, reason)
        images.check({**shed, "stopped_by": "requested"}, image_file(1), heads=2)
        [promised] = client.post("/predict?heads=3", content=image_file(2)).json()["predictions"]
        images.check(promised, image_file(2), heads=3)
        [sure] = client.post("/predict?min_confidence=0", content=image_file(3)).json()["predictions"]
        images.check(sure, image_file(3), min_confidence=0)
        labels = MODEL | {"heads_used": "2", "stopped_by": reason}
        assert samples(client)["neurotrails_rows_total", frozenset(labels.items())] == 1


def test_nothing_is_shed_by_default(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.models.measure_costs", flat_costs(500.0))
    with Service(models, latency_target_seconds=0.001) as service:
        [prediction] = service.wait().client.post("/predict", content=image_file(1)).json()["predictions"]
        assert (prediction["heads_used"], prediction["stopped_by"]) == (3, "all")


def test_a_target_accuracy_is_looked_up_in_the_table(tmp_path: Path, images: Direct) -> None:
    write_tiny_image_artifact(tmp_path / IMAGE)
    manifest = json.loads((tmp_path / IMAGE / MANIFEST).read_text())
    points = [(0.6, 0.8, 1.5), (0.9, 0.9, 2.5)]
    names = ("min_confidence", "accuracy", "mean_heads")
    manifest["early_exit"]["points"] = [dict(zip(names, point, strict=True)) for point in points]
    (tmp_path / IMAGE / MANIFEST).write_text(json.dumps(manifest))
    with Service(tmp_path) as service:
        client = service.wait().client
        assert client.get("/models").json()["models"][0]["early_exit"] == manifest["early_exit"]
        for target, minimum in ((0.7, 0.6), (0.8, 0.6), (0.85, 0.9)):
            for seed in range(6):
                reply = client.post("/predict", params={"target_accuracy": target}, content=image_file(seed))
                images.check(reply.json()["predictions"][0], image_file(seed), min_confidence=minimum)
        error = refused(client.post("/predict?target_accuracy=0.95", content=image_file(0)), 400, "bad_target_accuracy")
        assert "0.9 (min_confidence 0.9, 2.5 heads on average)" in error.error
        both = client.post("/predict?target_accuracy=0.8&heads=1", content=image_file(0))
        assert "without heads" in refused(both, 400, "bad_target_accuracy").error


@pytest.mark.parametrize(
    ("value", "word"), [("0", "0"), ("-1", "-1"), ("nan", "nan"), ("300001", "300000"), ("x", "x")]
)
def test_bad_timeouts(client: httpx.Client, value: str, word: str) -> None:
    error = refused(client.post(f"/predict?timeout_ms={value}", content=b"ball"), 400, "bad_timeout_ms")
    assert word in error.error


def test_a_timeout_in_the_body_counts(busy: Busy) -> None:
    form = busy.client.post("/predict", files={"file": image_file(1)}, data={"timeout_ms": "50"})
    refused(form, 504, "deadline_exceeded")
    busy.free()


def test_a_body_that_comes_too_slowly(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.middleware.GRACE_SECONDS", 0.05)
    with Service(models, min_body_rate=10**9) as service:
        service.wait()
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nthe")
            reply = connection.makefile("rb").read()
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"1000000000 bytes per second" in reply


def test_bodies_are_bounded_together(models: Path, gate: Gate, pool: ThreadPoolExecutor, images: Direct) -> None:
    size = len(image_file(0))
    with Busy(models, gate, pool, max_body_bytes=2 * size, max_bodies_bytes=2 * size + size // 2) as busy:
        second = busy.post(1)
        busy.wait_for(1, IMAGE)
        reply = busy.post(2).result()
        assert f"exceed {2 * size + size // 2} bytes" in refused(reply, 429, "overloaded").error
        assert reply.headers["retry-after"] == "1"
        busy.free()
        images.check(only(second), image_file(1))
        for seed in range(5):
            images.check(only(busy.post(seed)), image_file(seed))


def test_the_stages_of_a_request_are_in_a_header(client: httpx.Client) -> None:
    reply = client.post("/predict", content=image_file(1))
    stages = dict(stage.split(";dur=") for stage in reply.headers["server-timing"].split(", "))
    assert {name: float(value) for name, value in stages.items()} == reply.json()["timing_ms"]


def test_the_lag_of_the_event_loop_is_a_metric(client: httpx.Client) -> None:
    for _ in range(1000):
        if samples(client)["neurotrails_event_loop_lag_seconds_count", frozenset()] > 0:
            return
        time.sleep(0.01)
    pytest.fail("no lag was measured")
