"""The Open Inference Protocol over HTTP: right answers, in whatever form they are asked for."""

import base64
import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from runtime.preprocess import ImagePreprocessor
from server.oip.schema import (
    InferReply,
    LiveReply,
    ModelReadyReply,
    OpenModelReply,
    ReadyReply,
    ServerReply,
    StatisticsReply,
)
from server.schema import Shape
from tests.artifacts import SIDE
from tests.server.oip.wire import FILES, HEADER, INFER, WORDS, binary, document, elements, outputs, refused
from tests.server.service import Direct, Service

MODEL = "/v2/models/{name}"

pytestmark = pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True)  # all answer alike


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
    told = client.post(INFER.format("tiny-text"), json=early).headers["server-timing"]
    assert [stage.split(";")[0] for stage in told.split(", ")] == ["decode", "queue", "compute", "total"]
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


def test_what_kserve_sends(client: httpx.Client, texts: Direct, images: Direct) -> None:
    """The requests of kserve 0.21's InferenceRESTClient, which names the model in the body too."""
    head = (
        b'{"id":"r1","model_name":"tiny-image","inputs":[{"name":"input","shape":[1],"datatype":"BYTES",'
        b'"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}' % len(elements(FILES[:1]))
    )
    headers = {HEADER: str(len(head)), "content-type": "application/octet-stream"}
    reply = client.post(INFER.format("tiny-image"), content=head + elements(FILES[:1]), headers=headers)
    check(outputs(reply), images, FILES[:1])
    body = (
        '{"id":"134be6d9-16a7-436e-ba96-a85c3649e181","model_name":"tiny-text","inputs":[{"name":"input","shape":[1],'
        '"datatype":"BYTES","data":["WORDS"]}],"outputs":[{"name":"label"},{"name":"probabilities",'
        '"parameters":{"classification":2}}]}'
    ).replace("WORDS", WORDS[0])
    reply = client.post(INFER.format("tiny-text"), content=body, headers={"content-type": "application/json"})
    assert reply.json()["id"] == "134be6d9-16a7-436e-ba96-a85c3649e181"
    best = texts.predict(WORDS[0]).top(2)
    found = outputs(reply)
    assert found["label"].tolist() == [texts.labels[best[0]]]
    assert [int(value.split(":")[1]) for value in found["probabilities"][0]] == best


def test_heads_that_may_be_shed(models: Path, engine_name: str, texts: Direct) -> None:
    with Service(models, engine=engine_name, min_heads=1) as service:
        client = service.wait().client
        assert "head_probabilities" not in outputs(client.post(INFER.format("tiny-text"), json=document(WORDS)))
        wanted = [{"name": "head_probabilities"}]
        reply = client.post(INFER.format("tiny-text"), json=document(WORDS, outputs=wanted))
        refused(reply, 400, "shedding", "heads")
        reply = client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"heads": 3}))
        check(outputs(reply), texts, WORDS, heads=3)
        assert outputs(reply)["head_probabilities"].shape == (3, 3, len(texts.labels))


def test_target_accuracy(client: httpx.Client, texts: Direct) -> None:
    table = texts.artifact.manifest.early_exit.points
    target = min(point.accuracy for point in table)
    found = outputs(
        client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"target_accuracy": target}))
    )
    check(found, texts, WORDS, target_accuracy=target)
    assert "head_probabilities" not in found
    reply = client.post(INFER.format("tiny-text"), json=document(WORDS, parameters={"target_accuracy": 1.0}))
    refused(reply, 400, "target_accuracy")


def test_openapi_describes_the_replies(client: httpx.Client) -> None:
    document_ = client.get("/openapi.json").json()
    shapes: dict[str, type[Shape]] = {
        shape.__name__: shape
        for shape in (ServerReply, LiveReply, ReadyReply, OpenModelReply, ModelReadyReply, StatisticsReply, InferReply)
    }
    own = {path for path in document_["paths"] if path.startswith("/v2")}
    for prefix in (MODEL, f"{MODEL}/versions/{{version}}"):
        assert own >= {prefix + end for end in ("", "/ready", "/config", "/stats", "/infer")}
    for path in own:
        url = path.format(name="tiny-text", version="1")
        [(method, operation)] = document_["paths"][path].items()
        assert [parameter["name"] for parameter in operation["parameters"]] == re.findall(r"{(\w+)}", path)
        example = operation["requestBody"]["content"]["application/json"]["example"] if method == "post" else None
        reply = client.request(method, url, json=example)
        assert reply.status_code == 200, reply.text
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        if "$ref" in schema:
            shapes[schema["$ref"].rsplit("/", 1)[-1]].model_validate_json(reply.content)
        else:
            assert path.endswith("/config")
        for status in set(operation["responses"]) - {"200"}:
            [content] = operation["responses"][status]["content"].values()
            assert content["schema"]["$ref"].endswith("/OpenErrorReply")
