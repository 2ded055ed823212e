"""Requests and replies of the Open Inference Protocol as tests write and read them."""

import json
import struct
from typing import Any

import httpx
import numpy as np

from server.oip.codec import decode_tensor
from tests.server.inputs import image_file, text

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
