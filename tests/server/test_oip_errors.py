"""The Open Inference Protocol over HTTP: a malformed request gets one clear sentence, the next an answer."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.artifacts import SIDE
from tests.server.oip.wire import FILES, HEADER, INFER, WORDS, binary, document, elements, outputs, refused
from tests.server.service import Direct, Service

pytestmark = pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True)  # none sees them


@pytest.fixture(autouse=True)
def _keeps_running(client: httpx.Client, texts: Direct) -> Iterator[None]:
    yield
    found = outputs(client.post(INFER.format("tiny-text"), json=document(WORDS)))
    assert found["index"].tolist() == [texts.predict(word).top(1)[0] for word in WORDS]


def test_a_server_that_cannot_serve(tmp_path: Path, engine_name: str) -> None:
    with Service(tmp_path, engine=engine_name) as service:
        client = service.wait().client
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/tiny-text/ready", "/v2/models/tiny-text"):
            refused(client.get(path), 503, "holds no artifact")
        refused(client.post(INFER.format("tiny-text"), json=document(WORDS)), 503, "holds no artifact")


@pytest.mark.parametrize("path", ["index", "models/tiny-text/load", "models/tiny-text/unload"])
def test_the_repository_is_for_the_admin_port(client: httpx.Client, path: str) -> None:
    refused(client.post(f"/v2/repository/{path}", json={}), 403, "admin port", path)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/models/nope", 404, ["'nope'", "tiny-text"]),
        ("POST", "/v2/models/nope/infer", 404, ["'nope'"]),
        ("GET", "/v2/models/tiny-text/versions/7/ready", 404, ["'7'", "'1'"]),
        ("GET", "/v2/nope", 404, ["/v2/nope"]),
        ("GET", "/v2/models/tiny-text/infer", 405, ["POST"]),
        ("GET", "/v2/trace/setting", 404, ["/v2/trace/setting"]),
    ],
)
def test_paths(client: httpx.Client, method: str, path: str, status: int, words: list[str]) -> None:
    refused(client.request(method, path), status, *words)


TENSOR = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["ball"]}
MALFORMED: list[tuple[Any, int, list[str]]] = [
    ([], 400, ["object"]),
    ({}, 400, ["inputs"]),
    ({"inputs": {}}, 400, ["inputs"]),
    ({"inputs": []}, 400, ["inputs", "'input'"]),
    ({"inputs": [TENSOR, TENSOR]}, 400, ["one tensor"]),
    ({"inputs": [TENSOR], "ouputs": []}, 400, ["'ouputs'", "outputs"]),
    ({"inputs": [{**TENSOR, "name": "image"}]}, 400, ["'image'", "'input'"]),
    ({"inputs": [{**TENSOR, "dtype": "BYTES"}]}, 400, ["'dtype'"]),
    ({"inputs": [{**TENSOR, "datatype": "FP64"}]}, 400, ["'FP64'", "BYTES"]),
    ({"inputs": [{**TENSOR, "datatype": ["BYTES"]}]}, 400, ["BYTES"]),
    ({"inputs": [{**TENSOR, "datatype": "FP32", "data": [1.0]}]}, 400, ["tiny-text", "BYTES", "'FP32'"]),
    ({"inputs": [{**TENSOR, "shape": [2]}]}, 400, ["2 elements", "1"]),
    ({"inputs": [{**TENSOR, "shape": [0], "data": []}]}, 400, ["from 1"]),
    ({"inputs": [{**TENSOR, "shape": [-1]}]}, 400, ["-1"]),
    ({"inputs": [{**TENSOR, "shape": [1, 1, 1]}]}, 400, ["[rows]", "[1, 1, 1]"]),
    ({"inputs": [{**TENSOR, "shape": [1, 2], "data": ["a", "b"]}]}, 400, ["[rows]", "[1, 2]"]),
    ({"inputs": [{**TENSOR, "data": [3]}]}, 400, ["strings", "3"]),
    ({"inputs": [{**TENSOR, "data": "ball"}]}, 400, ["list"]),
    ({"inputs": [{**TENSOR, "data": [" "]}]}, 400, ["empty"]),
    ({"inputs": [{**TENSOR, "data": ["a " * 2501]}]}, 413, ["5000"]),
    ({"inputs": [{**TENSOR, "data": ["a"] * 21, "shape": [21]}]}, 413, ["21", "20"]),
    ({"inputs": [{**TENSOR, "parameters": {"content_type": "jpeg"}}]}, 400, ["'jpeg'", "base64"]),
    ({"inputs": [{**TENSOR, "parameters": {"content_type": "base64"}, "data": ["a b!"]}]}, 400, ["base64"]),
    ({"inputs": [{**TENSOR, "parameters": {"content_type": "base64"}, "data": ["/w=="]}]}, 400, ["UTF-8"]),
    ({"inputs": [{**TENSOR, "parameters": {"contnet_type": "base64"}}]}, 400, ["'contnet_type'", "content_type"]),
    ({"inputs": [{**TENSOR, "parameters": []}]}, 400, ["object"]),
    ({"inputs": [{**TENSOR, "parameters": {"shared_memory_region": "a"}}]}, 400, ["Shared memory"]),
    ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 4}}]}, 400, ["both"]),
    ({"inputs": [TENSOR], "outputs": {}}, 400, ["list"]),
    ({"inputs": [TENSOR], "outputs": ["label"]}, 400, ["'label'", "object"]),
    ({"inputs": [TENSOR], "outputs": [{"name": "logits"}]}, 400, ["'logits'", "probabilities"]),
    ({"inputs": [TENSOR], "outputs": [{"name": "label"}] * 2}, 400, ["more than once"]),
    ({"inputs": [TENSOR], "outputs": [{"name": "label", "parameters": {"classification": 1}}]}, 400, ["'label'"]),
    ({"inputs": [TENSOR], "outputs": [{"name": "probabilities", "parameters": {"classification": 0}}]}, 400, ["0"]),
    ({"inputs": [TENSOR], "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, 400, ["binary_data", "1"]),
    ({"inputs": [TENSOR], "id": 7}, 400, ["id", "7"]),
    ({"inputs": [TENSOR], "id": "x" * 257}, 400, ["256"]),
    ({"inputs": [TENSOR], "id": "a\ud800"}, 400, ["id", "ud800"]),
    ({"inputs": [TENSOR], "outputs": [{"name": "\ud800"}]}, 400, ["ud800"]),
    ({"inputs": [TENSOR], "\ud800": 1}, 400, ["ud800"]),
    ({"inputs": [TENSOR], "parameters": {"\ud800": 1}}, 400, ["ud800"]),
    ({"inputs": [TENSOR], "parameters": {"heads": "\ud800"}}, 400, ["ud800"]),
    ({"inputs": [TENSOR], "parameters": {"timeout": "\ud800"}}, 400, ["ud800"]),
    ({"inputs": [TENSOR], "parameters": {"hedas": 1}}, 400, ["'hedas'", "heads"]),
    ({"inputs": [TENSOR], "parameters": {"heads": 4}}, 400, ["1 to 3", "4"]),
    ({"inputs": [TENSOR], "parameters": {"heads": [1]}}, 400, ["heads", "single"]),
    ({"inputs": [TENSOR], "parameters": {"min_confidence": 2}}, 400, ["0 to 1", "2"]),
    ({"inputs": [TENSOR], "parameters": {"timeout": -1}}, 400, ["microseconds", "-1"]),
    ({"inputs": [TENSOR], "parameters": {"timeout": 10**9}}, 400, ["300000000", "1000000000"]),
    ({"inputs": [TENSOR], "parameters": {"timeout": True}}, 400, ["microseconds", "True"]),
    ({"inputs": [TENSOR], "parameters": {"priority": 1}}, 400, ["'priority'"]),
]


@pytest.mark.parametrize(("request_", "status", "words"), MALFORMED)
def test_malformed_requests(client: httpx.Client, request_: Any, status: int, words: list[str]) -> None:
    refused(client.post(INFER.format("tiny-text"), content=json.dumps(request_)), status, *words)


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, ["JSON"]),
        (b'{"inputs": NaN}', {}, 400, ["NaN"]),
        (b'{"inputs": [' + b"[" * 50_000, {}, 400, ["nests too many"]),
        (b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", {}, 400, ["[[["]),
        (b"{}", {HEADER: "3"}, 400, ["3", "2 bytes"]),
        (b"{}", {HEADER: "-1"}, 400, ["whole number", "-1"]),
        (b"{}", {HEADER: "0"}, 400, ["JSON"]),
        (b"{}", {HEADER: "9" * 50}, 400, ["whole number"]),
        (b"x", {"content-encoding": "gzip"}, 400, ["gzip"]),
        (b"x", {"content-encoding": "br"}, 415, ["'br'"]),
        (gzip.compress(bytes(200_001)), {"content-encoding": "gzip"}, 413, ["200000"]),
    ],
)
def test_malformed_bodies(
    client: httpx.Client, body: bytes, headers: dict[str, str], status: int, words: list[str]
) -> None:
    refused(client.post(INFER.format("tiny-text"), content=body, headers=headers), status, *words)


def test_malformed_binary_data(client: httpx.Client) -> None:
    def post(request: dict[str, Any], data: bytes, *, sent: bytes | None = None) -> httpx.Response:
        body, headers = binary(request, data)
        body = body if sent is None else body[: int(headers[HEADER])] + sent
        return client.post(INFER.format("tiny-image"), content=body, headers=headers)

    def tensor(datatype: str, *shape: int) -> dict[str, Any]:
        return document(datatype=datatype, shape=list(shape))

    good = elements(FILES)
    refused(post(document(), good, sent=good[:-1]), 400, "binary_data_size", str(len(good) - 1))
    refused(post(document(), good, sent=good + b"x"), 400, "binary_data_size", str(len(good) + 1))
    refused(post(document(), good[:-1]), 400, "element 2 reaches beyond")
    refused(post(document(), elements(FILES[:2])), 400, "3 elements", "has 2")
    refused(post(document(), elements([*FILES[:2], b""])), 400, "inputs[2]", "0 bytes")
    refused(post(document(), elements([*FILES[:2], FILES[0][:60]])), 400, "inputs[2]", "damaged")
    refused(post(tensor("FP32", 1, 1, SIDE, SIDE), bytes(12)), 400, str(4 * SIDE * SIDE), "12")
    refused(post(tensor("FP32", 1, 1, SIDE, SIDE + 1), bytes(4 * SIDE * (SIDE + 1))), 400, f"[rows, 1, {SIDE}, {SIDE}]")
    refused(post(tensor("FP32", 1, SIDE * SIDE), bytes(4 * SIDE * SIDE)), 400, f"[1, {SIDE * SIDE}]")
    refused(post(tensor("UINT8", 1, 4, 4, 2), bytes(32)), 400, "1 or 3")
    refused(post(tensor("UINT8", 1, 101, 100, 1), bytes(10_100)), 413, "MP")
    infinite = np.full((1, 1, SIDE, SIDE), np.inf, np.float32)
    refused(post(tensor("FP32", 1, 1, SIDE, SIDE), infinite.tobytes()), 400, "NaN or infinite")
    request = document(["not base64"], shape=[1])
    refused(client.post(INFER.format("tiny-image"), json=request), 400, "content_type", "base64")
    body, headers = binary(document(WORDS), b"x")
    del headers[HEADER]
    refused(client.post(INFER.format("tiny-text"), content=body, headers=headers), 400, "JSON")
    request = document(WORDS)
    head = json.dumps(request).encode()
    reply = client.post(INFER.format("tiny-text"), content=head + b"extra", headers={HEADER: str(len(head))})
    refused(reply, 400, "5 bytes follow")
    request["inputs"][0]["parameters"] = {"binary_data_size": -1}
    del request["inputs"][0]["data"]
    refused(client.post(INFER.format("tiny-text"), json=request), 400, "binary_data_size is -1")


def test_a_timeout_that_is_too_short(client: httpx.Client) -> None:
    refused(client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"timeout": 1})), 504, "0.001 ms")
    reply = client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"timeout": 60_000_000}))
    assert reply.status_code == 200


def test_binary_texts_must_be_utf8(client: httpx.Client) -> None:
    body, headers = binary(document(shape=[1]), elements([b"\xff"]))
    refused(client.post(INFER.format("tiny-text"), content=body, headers=headers), 400, "Element 0", "UTF-8")
