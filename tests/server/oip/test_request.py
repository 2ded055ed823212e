"""Whatever a body holds, reading it gives inputs within the limits, or a refusal with one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.manifest import Manifest
from server.errors import ServerError
from server.oip.codec import Tensor, encode_tensor
from server.oip.request import InferRequest, read_request
from server.settings import Settings
from tests.artifacts import SIDE, write_tiny_image_artifact, write_tiny_text_artifact
from tests.server.oip.wire import FILES, WORDS, binary, document, elements

SETTINGS = Settings(max_inputs=4, max_text_chars=200)
PIXELS = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
READY = np.linspace(-1, 1, 2 * SIDE * SIDE, dtype=np.float32).reshape(2, 1, SIDE, SIDE)
BODIES = [
    binary(document(), elements([word.encode() for word in WORDS])),
    binary(document(outputs=[{"name": "label", "parameters": {"binary_data": True}}]), elements(FILES)),
    binary(document(datatype="UINT8", shape=[2, 5, 4, 3]), encode_tensor(Tensor("input", "UINT8", (2,), PIXELS))),
    binary(document(datatype="FP32", shape=[2, 1, SIDE, SIDE]), encode_tensor(Tensor("input", "FP32", (2,), READY))),
    (json.dumps(document(WORDS, id="a", parameters={"heads": 2, "timeout": 5})).encode(), {}),
]
NAMES = [
    "id", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "binary_data_size", "content_type",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 20) | st.floats() | st.sampled_from([*NAMES, "input", "BYTES", "FP32"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)


@pytest.fixture(scope="module", params=["image", "text"])
def manifest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("models") / "model"
    writers: dict[str, Any] = {"image": write_tiny_image_artifact, "text": write_tiny_text_artifact}
    written: Manifest = writers[request.param](folder)
    return written


def read(body: bytes, header: str | None, manifest: Manifest) -> InferRequest | ServerError:
    try:
        return read_request(body, header, manifest, SETTINGS)
    except ServerError as error:
        return error


def check(outcome: InferRequest | ServerError, manifest: Manifest) -> None:
    if isinstance(outcome, ServerError):
        assert outcome.status in (400, 413)
        assert str(outcome).endswith(".")
        assert len(str(outcome)) < 500
    else:
        assert 1 <= len(outcome.inputs) <= SETTINGS.max_inputs
        kinds = (str,) if manifest.modality == "text" else (bytes, np.ndarray)
        assert all(isinstance(value, kinds) for value in outcome.inputs)


@given(body=st.sampled_from(BODIES), data=st.data())
def test_damaged_bodies(manifest: Manifest, body: tuple[bytes, dict[str, str]], data: st.DataObject) -> None:
    whole, headers = body
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    header = data.draw(st.sampled_from([None, *headers.values(), str(len(damaged)), "-1", "²"]) | st.text(max_size=4))
    check(read(damaged, header, manifest), manifest)


@given(value=VALUES, place=st.sampled_from(["request", "tensor", "field"]), field=st.sampled_from(NAMES))
def test_odd_documents(manifest: Manifest, value: Any, place: str, field: str) -> None:
    request: Any = document(WORDS, parameters={"heads": 1})
    if place == "request":
        request = value
    elif place == "tensor":
        request["inputs"][0][field] = value
    else:
        request[field] = value
    check(read(json.dumps(request).encode(), None, manifest), manifest)


@pytest.mark.parametrize("body", BODIES, ids=["texts", "files", "pixels", "ready", "json"])
def test_whole_bodies(manifest: Manifest, body: tuple[bytes, dict[str, str]]) -> None:
    content, headers = body
    found = read(content, next(iter(headers.values()), None), manifest)
    place = BODIES.index(body)
    if place not in ((0, 4) if manifest.modality == "text" else (0, 1, 2, 3)):  # any bytes may be an image file
        assert isinstance(found, ServerError)
        return
    assert isinstance(found, InferRequest)
    words: list[Any] = WORDS if manifest.modality == "text" else [word.encode() for word in WORDS]
    expected = [words, FILES, [*PIXELS], [*READY], WORDS][place]
    assert len(found.inputs) == len(expected)
    for one, two in zip(found.inputs, expected, strict=True):
        assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two
    if place == 4:
        assert (found.id, dict(found.wishes), found.timeout_seconds) == ("a", {"heads": 2}, 5e-6)


def test_rows_are_views_of_the_body(tmp_path: Path) -> None:
    content, headers = BODIES[3]
    found = read(content, next(iter(headers.values())), write_tiny_image_artifact(tmp_path / "model"))
    assert isinstance(found, InferRequest)
    body = np.frombuffer(content, np.uint8)
    assert all(isinstance(row, np.ndarray) and np.shares_memory(row, body) for row in found.inputs)
