"""Mixed requests: every protocol and form, several rows, wishes and timeouts, each with what it may be answered.

case = draw_case(expected, generator, identity="r-17")
connection.ask(case.request), then check_reply(case, reply)
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from runtime.preprocess import Input
from serving_client import request_bytes
from serving_expected import Expected

BOUNDARY = "7d3f0c5a"
MOST_ROWS = 4
SHORT_TIMEOUT_SECONDS = (0.002, 0.05)
"""Timeouts of requests that may well come too late."""
POISON = 3e38
"""Pixels of this size are finite, but overflow in the network: its engine gives NaN, which is an engine's failure."""

WISHED, TIMED, TEXTS, POISONED = 0.4, 0.03, 0.25, 0.003
"""Parts of the requests that wish for heads or a confidence, have a short timeout, hold texts, make the engine fail."""


@dataclass(frozen=True)
class Case:
    """One request, and what decides which answers to it are right."""

    identity: str
    kind: str
    request: bytes
    expected: Expected
    rows: tuple[int, ...]
    """Its inputs, as rows of `expected`."""
    heads: int | None = None
    min_confidence: float | None = None
    is_timed: bool = False
    """It may be answered with 504."""
    is_poisoned: bool = False
    """The engine must fail on it."""

    @property
    def speaks_v2(self) -> bool:
        """It is one of the Open Inference Protocol."""
        return self.kind.startswith("/v2")


Wishes = dict[str, str | int | float]
Form = Callable[[Expected, Sequence[Input], Wishes, str], bytes]
"""Writes a request from inputs, wishes (heads, min_confidence, timeout_ms) and an id."""


def draw_case(models: Sequence[Expected], generator: np.random.Generator, identity: str) -> Case:
    """Draw a request; `models` are one of images and one of texts."""
    images, texts = models
    if generator.random() < POISONED:
        return _poisoned(images, identity)
    expected = texts if generator.random() < TEXTS else images
    forms = TEXT_FORMS if expected.is_text else {**TEXT_FORMS, **IMAGE_FORMS}
    kind = str(generator.choice(list(forms)))
    count = 1 if kind == "/predict raw" else int(generator.integers(1, MOST_ROWS + 1))
    rows = tuple(int(row) for row in generator.integers(0, len(expected.inputs), count))
    wishes: Wishes = {}
    heads = min_confidence = None
    if generator.random() < WISHED:
        if generator.random() < 0.5:
            wishes["heads"] = heads = int(generator.integers(1, expected.heads_total + 1))
        else:
            wishes["min_confidence"] = min_confidence = round(float(generator.uniform(0.3, 1)), 3)
    is_timed = bool(generator.random() < TIMED)
    if is_timed:
        wishes["timeout_ms"] = round(1000 * float(generator.uniform(*SHORT_TIMEOUT_SECONDS)), 1)
    request = forms[kind](expected, [expected.inputs[row] for row in rows], wishes, identity)
    return Case(identity, kind, request, expected, rows, heads, min_confidence, is_timed)


def _poisoned(images: Expected, identity: str) -> Case:
    pixels = np.full((1, 28, 28), POISON, np.float32)
    pixels[:, ::2] *= -1
    request = _v2_tensor(images, "FP32", pixels[None], {}, identity)
    return Case(identity, "/v2 poisoned", request, images, (0,), is_poisoned=True)


def _predict(body: bytes, content_type: str, wishes: Wishes, identity: str) -> bytes:
    query = f"?{urlencode(wishes)}" if wishes else ""
    return request_bytes("POST", f"/predict{query}", body, {"content-type": content_type, "x-request-id": identity})


def _raw(_: Expected, inputs: Sequence[Input], wishes: Wishes, identity: str) -> bytes:
    [value] = inputs
    content_type = "text/plain; charset=utf-8" if isinstance(value, str) else "image/png"
    return _predict(_bytes(value), content_type, wishes, identity)


def _json(expected: Expected, inputs: Sequence[Input], wishes: Wishes, identity: str) -> bytes:
    """Wishes stand in the body here."""
    document = {
        "model": expected.name,
        "inputs": [
            {"text": value} if isinstance(value, str) else {"image": base64.b64encode(_bytes(value)).decode()}
            for value in inputs
        ],
        **wishes,
    }
    return _predict(json.dumps(document).encode(), "application/json", {}, identity)


def _multipart(_: Expected, inputs: Sequence[Input], wishes: Wishes, identity: str) -> bytes:
    parts = b"".join(
        b'--%s\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n%s\r\n'
        % (BOUNDARY.encode(), _bytes(value))
        for value in inputs
    )
    body = parts + f"--{BOUNDARY}--\r\n".encode()
    return _predict(body, f"multipart/form-data; boundary={BOUNDARY}", wishes, identity)


def _v2_json(expected: Expected, inputs: Sequence[Input], wishes: Wishes, identity: str) -> bytes:
    tensor: dict[str, Any] = {"name": "input", "datatype": "BYTES", "shape": [len(inputs)]}
    if expected.is_text:
        tensor["data"] = list(inputs)
    else:
        tensor["parameters"] = {"content_type": "base64"}
        tensor["data"] = [base64.b64encode(_bytes(value)).decode() for value in inputs]
    return _infer(expected, tensor, b"", wishes, identity)


def _v2_binary(expected: Expected, inputs: Sequence[Input], wishes: Wishes, identity: str) -> bytes:
    values = [_bytes(value) for value in inputs]
    data = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    tensor = {"name": "input", "datatype": "BYTES", "shape": [len(inputs)]}
    return _infer(expected, tensor | {"parameters": {"binary_data_size": len(data)}}, data, wishes, identity)


def _v2_uint8(expected: Expected, inputs: Sequence[Input], wishes: Wishes, identity: str) -> bytes:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(_bytes(value)))) for value in inputs])[..., None]
    return _v2_tensor(expected, "UINT8", pixels, wishes, identity)


def _v2_tensor(expected: Expected, datatype: str, values: np.ndarray[Any, Any], wishes: Wishes, identity: str) -> bytes:
    data = values.tobytes()
    tensor = {
        "name": "input", "datatype": datatype, "shape": list(values.shape),
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    return _infer(expected, tensor, data, wishes, identity)


def _infer(expected: Expected, tensor: dict[str, Any], data: bytes, wishes: Wishes, identity: str) -> bytes:
    parameters: dict[str, Any] = {name: value for name, value in wishes.items() if name != "timeout_ms"}
    if "timeout_ms" in wishes:
        parameters["timeout"] = round(1000 * float(wishes["timeout_ms"]))  # microseconds
    head = json.dumps({"id": identity, "inputs": [tensor], "parameters": parameters}).encode()
    headers = {"content-type": "application/octet-stream" if data else "application/json", "x-request-id": identity}
    if data:
        headers["inference-header-content-length"] = str(len(head))
    return request_bytes("POST", f"/v2/models/{expected.name}/infer", head + data, headers)


def _bytes(value: Input) -> bytes:
    if isinstance(value, str):
        return value.encode()
    assert isinstance(value, bytes)
    return value


TEXT_FORMS: dict[str, Form] = {
    "/predict raw": _raw,
    "/predict JSON": _json,
    "/predict multipart": _multipart,
    "/v2 JSON": _v2_json,
    "/v2 binary": _v2_binary,
}
"""Forms for texts, and for image files."""
IMAGE_FORMS: dict[str, Form] = {"/v2 UINT8": _v2_uint8}
"""Forms for images alone."""
