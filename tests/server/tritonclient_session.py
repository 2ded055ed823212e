"""What users do with an unmodified tritonclient, against a running server; prints what came back as JSON.

python tests/server/tritonclient_session.py HOST:PORT REQUESTS.json

A process to itself: tritonclient brings gevent, which must not meet PyTorch or DeepSparse. REQUESTS.json holds
`image_model`, `files` (base64) and `ready` (a preprocessed image, nested lists), and `text_model` and `texts`.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import http
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

INFER_OPTIONS: list[dict[str, Any]] = [
    {},
    {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"},
    {"request_compression_algorithm": "deflate", "response_compression_algorithm": "gzip"},
    {"model_version": "1", "request_id": "my request", "timeout": 30_000_000, "parameters": {"heads": 1}},
]


def make_input(array: np.ndarray[Any, Any], datatype: str, *, binary: bool = True) -> http.InferInput:
    tensor = http.InferInput("input", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def objects(values: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def told(result: http.InferResult) -> dict[str, Any]:
    """All outputs of a result as plain values."""
    found: dict[str, Any] = {"id": result.get_response()["id"]}
    for output in result.get_response()["outputs"]:
        values = result.as_numpy(output["name"]).tolist()
        found[output["name"]] = json.loads(json.dumps(values, default=bytes.decode))
    return found


def error_of(call: Any, *args: Any, **options: Any) -> dict[str, str]:
    """The error that a call raises."""
    try:
        call(*args, **options)
    except InferenceServerException as error:
        return {"status": str(error.status()), "message": str(error.message())}
    raise AssertionError(f"{call} raised nothing")


def describe(client: http.InferenceServerClient, models: list[str]) -> dict[str, Any]:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert not client.is_model_ready("nope")
    server = client.get_server_metadata()
    assert "binary_tensor_data" in server["extensions"]
    for model in models:
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready(model, "2")
    return {
        "metadata": {model: client.get_model_metadata(model) for model in models},
        "config": {model: client.get_model_config(model, "1") for model in models},
        "statistics": client.get_inference_statistics(),
        "errors": {
            "index": error_of(client.get_model_repository_index),
            "load": error_of(client.load_model, models[0]),
            "unload": error_of(client.unload_model, models[0]),
            "model": error_of(client.get_model_metadata, "nope"),
            "trace": error_of(client.get_trace_settings),
        },
    }


def infer(client: http.InferenceServerClient, requests: dict[str, Any]) -> dict[str, Any]:
    image, text = requests["image_model"], requests["text_model"]
    files = make_input(objects([base64.b64decode(file) for file in requests["files"]]), "BYTES")
    texts = make_input(objects(requests["texts"]), "BYTES")
    in_json = make_input(objects(requests["texts"]), "BYTES", binary=False)
    ready = make_input(np.array(requests["ready"], np.float32), "FP32")
    pixels = make_input(np.zeros((2, 30, 40, 3), np.uint8), "UINT8")
    wanted = [
        http.InferRequestedOutput("probabilities", class_count=3),
        http.InferRequestedOutput("label", binary_data=False),
    ]
    wrong = make_input(np.zeros((1, 3), np.float32), "FP32")
    return {
        "files": [told(client.infer(image, [files], **options)) for options in INFER_OPTIONS],
        "texts": [told(client.infer(text, [texts], **options)) for options in INFER_OPTIONS],
        "in_json": told(client.infer(text, [in_json])),
        "ready": told(client.infer(image, [ready])),
        "pixels": told(client.infer(image, [pixels])),
        "async": told(client.async_infer(image, [files]).get_result()),
        "classes": told(client.infer(text, [texts], outputs=wanted)),
        "early": told(client.infer(text, [texts], parameters={"min_confidence": 0.5})),
        "errors": {
            "shape": error_of(client.infer, image, [wrong]),
            "datatype": error_of(client.infer, text, [wrong]),
            "output": error_of(client.infer, text, [texts], outputs=[http.InferRequestedOutput("logits")]),
            "heads": error_of(client.infer, text, [texts], parameters={"heads": 99}),
            "timeout": error_of(client.infer, text, [texts], timeout=1),
        },
    }


async def infer_in_asyncio(url: str, requests: dict[str, Any]) -> dict[str, Any]:
    async with aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        tensor = make_input(objects(requests["texts"]), "BYTES")
        return told(await client.infer(requests["text_model"], [tensor]))


def main(url: str, path: str) -> None:
    requests = json.loads(Path(path).read_text())
    with http.InferenceServerClient(url, concurrency=2) as client:
        described = describe(client, [requests["image_model"], requests["text_model"]])
        inferred = infer(client, requests)
    print(json.dumps({**described, **inferred, "asyncio": asyncio.run(infer_in_asyncio(url, requests)),
                      "errors": described["errors"] | inferred["errors"]}))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
