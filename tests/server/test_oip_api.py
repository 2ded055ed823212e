"""The Open Inference Protocol over HTTP: right answers in every form, and each malformed request a clear sentence."""

import base64
import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from runtime.preprocess import ImagePreprocessor
from server.oip.codec import decode_tensor
from tests.artifacts import SIDE
from tests.server.inputs import image_file, text
from tests.server.service import Direct, Service

pytestmark = pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session")  # all answer alike

HEADER = "inference-header-content-length"
INFER = "/v2/models/{}/infer"
WORDS = [text(seed) for seed in range(3)]
FILES = [image_file(seed) for seed in range(3)]


def document(data: Any = None, **fields: Any) -> dict[str, Any]:
    """A request for one tensor; `fields` with a name of the tensor's own go there."""
    tensor: dict[str, Any] = {"name": "input", "datatype": "BYTES", "shape": [len(WORDS)]}
    if data is not None:
        tensor["data"] = data
    tensor |= {name: fields.pop(name) for name in ("name_", "datatype", "shape", "parameters_") if name in fields}
    for name in ("name_", "parameters_"):
        if name in tensor:
            tensor[name.rstrip("_")] = tensor.pop(name)
    return {"inputs": [tensor], **fields}


def binary(request: dict[str, Any], data: bytes) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request whose tensor is binary."""
    request["inputs"][0].setdefault("parameters", {})["binary_data_size"] = len(data)
    head = json.dumps(request).encode()
    return head + data, {HEADER: str(len(head))}


def elements(values: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def outputs(reply: httpx.Response) -> dict[str, Any]:
    """The outputs of a reply: numbers as arrays, strings as lists."""
    assert reply.status_code == 200, reply.text
    length = reply.headers.get(HEADER)
    head = reply.content if length is None else reply.content[: int(length)]
    assert reply.headers["content-type"] == ("application/json" if length is None else "application/octet-stream")
    rest = memoryview(reply.content)[len(head) :]
    found: dict[str, Any] = {}
    for output in json.loads(head)["outputs"]:
        shape = tuple(output["shape"])
        if "data" in output:
            values: Any = np.array(output["data"]).reshape(shape)
        else:
            size = output["parameters"]["binary_data_size"]
            values = decode_tensor(output["name"], output["datatype"], shape, rest[:size]).values
            rest = rest[size:]
            if isinstance(values, tuple):
                values = np.array([value.decode() for value in values]).reshape(shape)
        found[output["name"]] = values
    assert not len(rest)
    return found


def check(found: dict[str, Any], direct: Direct, data: list[Any], **wish: Any) -> None:
    """Assert that the outputs are the predictions of a bare predictor."""
    expected = [direct.predict(value, **wish) for value in data]
    best = [prediction.top(1)[0] for prediction in expected]
    assert found["index"].tolist() == best
    assert found["label"].tolist() == [direct.labels[index] for index in best]
    np.testing.assert_allclose(found["probabilities"], [p.probabilities for p in expected], atol=1e-5)
    assert found["heads_used"].tolist() == [p.heads_used for p in expected]
    assert found["stopped_by"].tolist() == [p.stopped_by for p in expected]
    if "head_probabilities" in found:
        np.testing.assert_allclose(found["head_probabilities"], [p.head_probabilities for p in expected], atol=1e-5)


def refused(reply: httpx.Response, status: int, *words: str) -> None:
    """Check an error reply: one sentence and nothing else."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()
    assert set(error) == {"error"}
    assert error["error"].endswith(".")
    assert "\n" not in error["error"]
    for word in words:
        assert word in error["error"], error


def test_health_and_metadata(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("tiny-image", "tiny-image/versions/1"):
        assert client.get(f"/v2/models/{path}/ready").json() == {"name": "tiny-image", "ready": True}
        metadata = client.get(f"/v2/models/{path}").json()
        assert (metadata["name"], metadata["versions"]) == ("tiny-image", ["1"])
        assert metadata["platform"] == "neurotrails_onnxruntime"
        [tensor] = metadata["inputs"]
        assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("input", "BYTES", [-1])
        assert set(tensor["parameters"]) == {"BYTES", "FP32", "UINT8"}
        assert f"[-1, 1, {SIDE}, {SIDE}]" in tensor["parameters"]["FP32"]
        config = client.get(f"/v2/models/{path}/config").json()
        assert [(t["name"], t["dims"]) for t in config["output"]] == [
            (t["name"], t["shape"]) for t in metadata["outputs"]
        ]
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    assert set(client.get("/v2/models/tiny-text").json()["inputs"][0]["parameters"]) == {"BYTES"}


def test_the_outputs_are_what_metadata_says(client: httpx.Client) -> None:
    described = {tensor["name"]: tensor for tensor in client.get("/v2/models/tiny-text").json()["outputs"]}
    reply = client.post(INFER.format("tiny-text"), json=document(WORDS)).json()
    assert [output["name"] for output in reply["outputs"]] == list(described)
    for output in reply["outputs"]:
        told = described[output["name"]]
        assert output["datatype"] == told["datatype"]
        assert len(output["shape"]) == len(told["shape"])
        assert all(wanted in (-1, size) for size, wanted in zip(output["shape"], told["shape"], strict=True))


def test_a_server_that_cannot_serve(tmp_path: Path, engine_name: str) -> None:
    with Service(tmp_path, engine=engine_name) as service:
        client = service.wait().client
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/tiny-text/ready", "/v2/models/tiny-text"):
            refused(client.get(path), 503, "holds no artifact")
        refused(client.post(INFER.format("tiny-text"), json=document(WORDS)), 503, "holds no artifact")


@pytest.mark.parametrize("shape", [[3], [3, 1]])
@pytest.mark.parametrize("encoding", [None, "base64"])
@pytest.mark.parametrize("nested", [False, True])
def test_texts_in_json(
    client: httpx.Client, texts: Direct, shape: list[int], encoding: str | None, nested: bool
) -> None:
    data: Any = [base64.b64encode(word.encode()).decode() for word in WORDS] if encoding else WORDS
    data = [[value] for value in data] if nested and len(shape) == 2 else data
    parameters = {"content_type": encoding} if encoding else {}
    reply = client.post(INFER.format("tiny-text"), json=document(data, shape=shape, parameters_=parameters))
    check(outputs(reply), texts, WORDS)
    assert (reply.json()["model_name"], reply.json()["model_version"]) == ("tiny-text", "1")


def test_texts_in_binary(client: httpx.Client, texts: Direct) -> None:
    body, headers = binary(document(parameters={"binary_data_output": True}), elements([w.encode() for w in WORDS]))
    reply = client.post("/v2/models/tiny-text/versions/1/infer", content=body, headers=headers)
    check(outputs(reply), texts, WORDS)
    assert int(reply.headers[HEADER]) < len(reply.content)


def test_image_files(client: httpx.Client, images: Direct) -> None:
    encoded = [base64.b64encode(file).decode() for file in FILES]
    reply = client.post(INFER.format("tiny-image"), json=document(encoded, parameters_={"content_type": "base64"}))
    check(outputs(reply), images, FILES)
    body, headers = binary(document(), elements(FILES))
    check(outputs(client.post(INFER.format("tiny-image"), content=body, headers=headers)), images, FILES)


def test_image_tensors(client: httpx.Client, images: Direct) -> None:
    preprocessor = images.artifact.preprocessor
    assert isinstance(preprocessor, ImagePreprocessor)
    pixels = np.stack([np.asarray(preprocessor.decode(file)) for file in FILES])[..., None]  # larger than the model's
    ready = np.stack([preprocessor.prepare(file)["image"] for file in FILES])
    for datatype, array in (("UINT8", pixels), ("UINT8", pixels.repeat(3, axis=-1)), ("FP32", ready)):
        request = document(datatype=datatype, shape=list(array.shape))
        body, headers = binary(request, array.tobytes())
        check(outputs(client.post(INFER.format("tiny-image"), content=body, headers=headers)), images, FILES)
        for data in (array.ravel().tolist(), array.tolist()):
            request = document(data, datatype=datatype, shape=list(array.shape))
            check(outputs(client.post(INFER.format("tiny-image"), json=request)), images, FILES)


def test_requested_outputs(client: httpx.Client, texts: Direct) -> None:
    wanted = [
        {"name": "index", "parameters": {"binary_data": True}},
        {"name": "probabilities", "parameters": {"classification": 2, "binary_data": False}},
        {"name": "label"},
    ]
    request = document(WORDS, outputs=wanted, id="my id")
    found = outputs(client.post(INFER.format("tiny-text"), json=request))
    assert list(found) == ["index", "probabilities", "label"]
    for row, word in enumerate(WORDS):
        expected = texts.predict(word)
        assert found["index"][row] == expected.top(1)[0]
        for value, index in zip(found["probabilities"][row], expected.top(2), strict=True):
            probability, place, label = value.split(":")
            assert (int(place), label) == (index, texts.labels[index])
            assert float(probability) == pytest.approx(expected.probabilities[index], abs=1e-5)
    request["outputs"] = [{"name": "probabilities", "parameters": {"classification": 99, "binary_data": True}}]
    found = outputs(client.post(INFER.format("tiny-text"), json=request))
    assert found["probabilities"].shape == (3, len(texts.labels))


def test_ids(client: httpx.Client) -> None:
    reply = client.post(INFER.format("tiny-text"), json=document(WORDS, id="my id: ü"))
    assert reply.json()["id"] == "my id: ü"
    reply = client.post(INFER.format("tiny-text"), json=document(WORDS))
    assert reply.json()["id"] == reply.headers["x-request-id"]


def test_heads_and_early_exit(client: httpx.Client, texts: Direct) -> None:
    reply = client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"heads": 2}))
    found = outputs(reply)
    check(found, texts, WORDS, heads=2)
    assert found["head_probabilities"].shape == (3, 2, len(texts.labels))
    early = document(WORDS, parameters={"min_confidence": 0.4})
    found = outputs(client.post(INFER.format("tiny-text"), json=early))
    assert "head_probabilities" not in found
    check(found, texts, WORDS, min_confidence=0.4)
    assert "early_exit" in found["stopped_by"]
    early["outputs"] = [{"name": "head_probabilities"}]
    refused(client.post(INFER.format("tiny-text"), json=early), 400, "early exit", "heads")


@pytest.mark.parametrize(("coding", "undo"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_compression_both_ways(client: httpx.Client, texts: Direct, coding: str, undo: Any) -> None:
    many = WORDS * 6
    body, headers = binary(
        document(shape=[18], parameters={"binary_data_output": True}), elements([w.encode() for w in many])
    )
    squeezed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    headers |= {"content-encoding": coding, "accept-encoding": coding}
    request = client.build_request("POST", INFER.format("tiny-text"), content=squeezed, headers=headers)
    reply = client.send(request, stream=True)
    raw = b"".join(reply.iter_raw())
    reply.close()
    assert reply.headers["content-encoding"] == coding
    plain = httpx.Response(200, content=undo(raw), headers={
        name: reply.headers[name] for name in ("content-type", HEADER)
    })  # fmt: skip
    check(outputs(plain), texts, many)
    small = client.get("/v2", headers={"accept-encoding": coding})
    assert "content-encoding" not in small.headers


def test_statistics_count(client: httpx.Client) -> None:
    def stats() -> dict[str, Any]:
        [found] = client.get("/v2/models/tiny-text/versions/1/stats").json()["model_stats"]
        return dict(found)

    before = stats()
    client.post(INFER.format("tiny-text"), json=document(WORDS))
    client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"heads": 9}))
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] > before["last_inference"]
    for name, grown in {"success": 1, "fail": 1, "queue": 1, "compute_infer": 1, "cache_hit": 0}.items():
        one, two = before["inference_stats"][name], after["inference_stats"][name]
        assert two["count"] - one["count"] == grown
        assert (two["ns"] > one["ns"]) == (grown > 0)
    names = [found["name"] for found in client.get("/v2/models/stats").json()["model_stats"]]
    assert names == ["tiny-image", "tiny-text"]


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
    ({"inputs": [TENSOR], "parameters": {"hedas": 1}}, 400, ["'hedas'", "heads"]),
    ({"inputs": [TENSOR], "parameters": {"heads": 4}}, 400, ["1 to 3", "4"]),
    ({"inputs": [TENSOR], "parameters": {"heads": [1]}}, 400, ["heads", "single"]),
    ({"inputs": [TENSOR], "parameters": {"min_confidence": 2}}, 400, ["0 to 1", "2"]),
    ({"inputs": [TENSOR], "parameters": {"timeout": -1}}, 400, ["microseconds", "-1"]),
    ({"inputs": [TENSOR], "parameters": {"timeout": True}}, 400, ["microseconds", "True"]),
    ({"inputs": [TENSOR], "parameters": {"priority": 1}}, 400, ["'priority'"]),
]


@pytest.mark.parametrize(("request_", "status", "words"), MALFORMED)
def test_malformed_requests(client: httpx.Client, request_: Any, status: int, words: list[str]) -> None:
    refused(client.post(INFER.format("tiny-text"), json=request_), status, *words)


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, ["JSON"]),
        (b'{"inputs": NaN}', {}, 400, ["NaN"]),
        (b'{"inputs": [' + b"[" * 50, {}, 400, ["nests deeper"]),
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
    refused(post(tensor("FP32", 1, 1, SIDE, SIDE + 1), bytes(4 * SIDE * (SIDE + 1))), 400, str([1, SIDE, SIDE]))
    refused(post(tensor("FP32", 1, SIDE * SIDE), bytes(4 * SIDE * SIDE)), 400, "4 dimensions")
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
    refused(
        client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"timeout": 1})), 504, "1 microseconds"
    )
    reply = client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"timeout": 60_000_000}))
    assert reply.status_code == 200


def test_binary_texts_must_be_utf8(client: httpx.Client) -> None:
    body, headers = binary(document(shape=[1]), elements([b"\xff"]))
    refused(client.post(INFER.format("tiny-text"), content=body, headers=headers), 400, "Element 0", "UTF-8")
