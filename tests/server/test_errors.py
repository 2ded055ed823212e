"""Bad input gets a 4xx with one clear sentence in the one shape of errors, and the server keeps running."""

import base64
import io
import json
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from server.schema import ErrorReply
from tests.artifacts import write_tiny_image_artifact
from tests.server.inputs import image_file, text
from tests.server.service import Direct, Service

pytestmark = pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True)  # none sees them

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def _keeps_running(client: httpx.Client, texts: Direct) -> Iterator[None]:
    yield
    texts.check(client.post("/predict", content=text(9).encode()).json()["predictions"][0], text(9))


def refused(reply: httpx.Response, status: int, code: str, *words: str) -> str:
    """Check an error reply and return its sentence."""
    error = ErrorReply.model_validate_json(reply.content)
    assert (reply.status_code, error.code) == (status, code), error
    assert error.id == reply.headers["x-request-id"]
    assert error.error.rstrip().endswith(".")
    assert "\n" not in error.error
    for word in words:
        assert word in error.error
    return error.error


def huge_png() -> bytes:
    """A PNG header that claims 120 MP; nothing behind it was ever decoded."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (12_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


PNG = image_file(0)

BODIES: list[tuple[str, bytes, dict[str, str], int, str, str]] = [
    ("nothing", b"", {}, 400, "empty_input", "empty"),
    ("blank text", b" \n ", {}, 400, "empty_input", "empty"),
    ("binary", bytes(range(128, 256)), {}, 415, "unrecognized_input", "PNG"),
    ("zeros", bytes(100), {}, 415, "unrecognized_input", "PNG"),
    ("declared image", b"hello", {"content-type": "image/png"}, 415, "not_an_image", "PNG"),
    ("TIFF", b"II*\x00" + bytes(50), {"content-type": "image/tiff"}, 415, "not_an_image", "PNG"),
    ("cut image", PNG[:60], {}, 400, "broken_image", "damaged"),
    ("curl -d @image", PNG.replace(b"\r", b"").replace(b"\n", b""), {}, 400, "broken_image", "--data-binary"),
    ("too many pixels", huge_png(), {}, 413, "image_too_large", "120 MP; the limit is 0.01 MP"),
    ("large body", b"a" * 200_001, {}, 413, "body_too_large", "200000"),
    ("long text", b"a " * 2501, {}, 413, "text_too_long", "5002"),
    ("gzip", b"x", {"content-encoding": "gzip"}, 415, "bad_encoding", "gzip"),
    ("no JSON", b"{", JSON, 400, "bad_json", "not valid JSON"),
    ("JSON cut off", b'{"inputs": [', {}, 400, "bad_json", "not valid JSON"),
    ("JSON that is no UTF-8", b'{"inputs": "\xff"}', JSON, 400, "bad_json", "not valid JSON"),
    ("deep JSON", b'{"inputs":' + b"[" * 90_000, {}, 400, "bad_json", "not valid JSON"),
    ("huge number", b'{"inputs":[{"text":"a"}],"heads":1' + b"0" * 5000 + b"}", {}, 400, "bad_json", "JSON"),
    ("JSON list", b'[{"text": "ball"}]', JSON, 400, "bad_json", "inputs"),
    ("inputs is no list", b'{"inputs": {"text": "ball"}}', {}, 400, "bad_json", "inputs"),
    ("no inputs", b'{"inputs": []}', {}, 400, "empty_input", "inputs"),
    ("input is a string", b'{"inputs": ["ball"]}', {}, 400, "bad_json", "inputs[0]"),
    ("two in one", b'{"inputs": [{"text": "a", "image": "b"}]}', {}, 400, "bad_json", "inputs[0]"),
    ("text is a number", b'{"inputs": [{"text": "a"}, {"text": 3}]}', {}, 400, "bad_json", "inputs[1]"),
    ("a URL", b'{"inputs": [{"image": "http://127.0.0.1/a.png"}]}', {}, 400, "bad_base64", "inputs[0]"),
    ("a path", b'{"inputs": [{"image": "/etc/passwd"}]}', {}, 400, "bad_base64", "inputs[0]"),
    ("half a character", b'{"inputs": [{"text": "\\ud800"}]}', {}, 400, "not_a_text", "surrogate"),
    ("empty base64", b'{"inputs": [{"image": ""}]}', {}, 400, "empty_input", "0 bytes"),
    ("no image inside", b'{"inputs": [{"image": "aGVsbG8="}]}', {}, 415, "not_an_image", "PNG"),
    ("list as parameter", b'{"inputs": [{"text": "a"}], "heads": [1]}', {}, 400, "bad_parameter", "heads"),
    ("unknown field", b'{"inputs": [{"text": "a"}], "hedas": 1}', {}, 400, "unknown_parameter", "hedas"),
    ("too many inputs", json.dumps({"inputs": [{"text": "a"}] * 21}).encode(), {}, 413, "too_many_inputs", "20"),
    ("form without boundary", b"--x", {"content-type": "multipart/form-data"}, 400, "bad_form", "boundary"),
    ("cut form", b"--x\r\n", {"content-type": "multipart/form-data; boundary=x"}, 400, "bad_form", "boundary"),
    ("no form", b"hello", {"content-type": "multipart/form-data; boundary=x"}, 400, "bad_form", "read"),
]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "word"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES]
)
def test_bad_bodies(
    client: httpx.Client, body: bytes, headers: dict[str, str], status: int, code: str, word: str
) -> None:
    refused(client.post("/predict", content=body, headers=headers), status, code, word)


@pytest.mark.parametrize(
    ("query", "status", "code", "words"),
    [
        ("modle=tiny-text", 400, "unknown_parameter", ["modle", "model"]),
        ("heads=1&heads=2", 400, "bad_parameter", ["heads"]),
        ("heads=two", 400, "bad_heads", ["'two'"]),
        ("heads=1.5", 400, "bad_heads", ["1.5"]),
        ("heads=0", 400, "bad_heads", ["0"]),
        ("heads=-1", 400, "bad_heads", ["-1"]),
        ("heads=4", 400, "bad_heads", ["1 to 3", "4"]),
        ("heads=" + "9" * 5000, 400, "bad_heads", ["heads"]),
        ("min_confidence=1.01", 400, "bad_min_confidence", ["1.01"]),
        ("min_confidence=nan", 400, "bad_min_confidence", ["nan"]),
        ("min_confidence=high", 400, "bad_min_confidence", ["'high'"]),
        ("top_k=0", 400, "bad_top_k", ["0"]),
        ("top_k=1001", 400, "bad_top_k", ["1001", "1000"]),
        ("model=nope", 404, "unknown_model", ["'nope'", "tiny-image", "tiny-text"]),
        ("model=", 404, "unknown_model", ["tiny-text"]),
        ("model=tiny-image", 400, "wrong_type", ["tiny-image", "images", "a text"]),
    ],
)
def test_bad_parameters(client: httpx.Client, query: str, status: int, code: str, words: list[str]) -> None:
    refused(client.post(f"/predict?{query}", content=b"the ball"), status, code, *words)


@pytest.mark.parametrize("value", [True, 1.5, "1.0", -1, 10**400, "NaN"])
def test_bad_heads_in_json(client: httpx.Client, value: Any) -> None:
    refused(client.post("/predict", json={"inputs": [{"text": "ball"}], "heads": value}), 400, "bad_heads", "heads")


def test_a_text_model_takes_no_image(client: httpx.Client) -> None:
    refused(client.post("/predict?model=tiny-text", content=PNG), 400, "wrong_type", "texts", "an image")


def test_a_parameter_given_twice(client: httpx.Client) -> None:
    reply = client.post("/predict?heads=1", json={"inputs": [{"text": "ball"}], "heads": 1})
    refused(reply, 400, "bad_parameter", "heads", "more than once")
    form = client.post("/predict?heads=1", files={"file": PNG}, data={"heads": "1"})
    refused(form, 400, "bad_parameter", "heads", "more than once")


def test_one_bad_input_among_many_is_named(client: httpx.Client) -> None:
    files = [("file", PNG), ("file", image_file(1)), ("file", PNG[:60])]
    refused(client.post("/predict", files=files), 400, "broken_image", "inputs[2]: ")
    empty = [("file", PNG), ("file", b"")]
    refused(client.post("/predict", files=empty), 400, "empty_input", "inputs[1]: ")
    large = {"inputs": [{"text": "ball"}, {"text": "a " * 2501}]}
    refused(client.post("/predict", json=large), 413, "text_too_long", "inputs[1]: ")
    blank = {"inputs": [{"text": ""}, {"text": "ball"}]}
    refused(client.post("/predict", json=blank), 400, "empty_input", "inputs[0]: ")


def test_images_and_texts_do_not_mix(client: httpx.Client) -> None:
    body = {"inputs": [{"text": "ball"}, {"image": base64.b64encode(PNG).decode()}]}
    refused(client.post("/predict", json=body), 400, "mixed_inputs", "images and texts")


def test_forms(client: httpx.Client) -> None:
    refused(client.post("/predict", files={"image": PNG}), 400, "bad_form", "'image'", "file")
    refused(client.post("/predict", files={"heads": (None, b"1")}), 400, "empty_input", "file")
    refused(client.post("/predict", files={"file": PNG, "hedas": (None, b"1")}), 400, "unknown_parameter", "hedas")
    refused(client.post("/predict", files={"file": PNG, "model": (None, b"x" * 2000)}), 413, "field_too_large", "1024")
    many: list[tuple[str, Any]] = [("file", PNG), *((f"f{index}", (None, b"1")) for index in range(100))]
    refused(client.post("/predict", files=many), 413, "too_many_fields", "16")


def test_paths_and_methods(client: httpx.Client) -> None:
    refused(client.get("/nope"), 404, "not_found", "/nope")
    refused(client.get("/predict/"), 404, "not_found", "/predict/")
    reply = client.get("/predict")
    refused(reply, 405, "method_not_allowed", "POST or PUT")
    assert reply.headers["allow"] == "POST, PUT"
    refused(client.delete("/models"), 405, "method_not_allowed", "GET")


def test_a_body_that_hides_its_size_is_cut_off(client: httpx.Client) -> None:
    reply = client.post("/predict", content=(b"a" * 10_000 for _ in range(30)))
    refused(reply, 413, "body_too_large", "200000")


def test_a_body_that_does_not_come(models: Path) -> None:
    with Service(models, body_timeout_seconds=0.05) as service:
        service.wait()
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nthe")
            reply = connection.makefile("rb").read()
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"body_timeout"' in reply


def test_a_client_that_leaves(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nthe")
    for _ in range(1000):
        if 'route="/predict",status="499"' in service.client.get("/metrics").text:
            return
        time.sleep(0.01)
    pytest.fail("the metrics do not show the client that left")


def test_no_default_model(tmp_path: Path) -> None:
    write_tiny_image_artifact(tmp_path / "one", name="one")
    write_tiny_image_artifact(tmp_path / "two", name="two", seed=1)
    with Service(tmp_path) as service:
        client = service.wait().client
        refused(client.post("/predict", content=PNG), 400, "no_default_model", "one, two")
        refused(client.post("/predict", content=b"ball"), 400, "no_default_model", "texts", "one", "two")
        assert client.post("/predict?model=two", content=PNG).json()["model"] == "two"
        assert [model["default"] for model in client.get("/models").json()["models"]] == [False, False]
