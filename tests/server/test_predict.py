"""Every way to send inputs and parameters gets the answer of a bare predictor."""

import base64
from typing import Any

import httpx
import pytest

from server.schema import PredictReply
from tests.server.inputs import image_file, text
from tests.server.service import Direct

FORM = "application/x-www-form-urlencoded"


def predictions(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    PredictReply.model_validate_json(reply.content)  # the documented shape, and nothing else
    found: list[dict[str, Any]] = reply.json()["predictions"]
    return found


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_whole_reply(client: httpx.Client, engine_name: str) -> None:
    reply = client.post("/predict", files={"file": image_file(0)}, headers={"x-request-id": "mine-1"}).json()
    assert list(reply) == ["id", "model", "version", "engine", "precision", "vote", "predictions", "timing_ms"]
    assert reply["id"] == "mine-1"
    assert (reply["model"], reply["version"]) == ("tiny-image", "1")
    assert (reply["engine"], reply["precision"], reply["vote"]) == (engine_name, "fp32", "probabilities")
    [prediction] = reply["predictions"]
    assert prediction["top_k"] == [{name: prediction[name] for name in ("label", "index", "probability")}]
    timing = reply["timing_ms"]
    assert list(timing) == ["decode", "queue", "compute", "total"]
    assert sum(timing.values()) - timing["total"] == pytest.approx(timing["total"], abs=0.01)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_one_file_in_a_form(client: httpx.Client, images: Direct, method: str) -> None:
    [prediction] = predictions(client.request(method, "/predict", files={"file": ("ünï.png", image_file(1))}))
    images.check(prediction, image_file(1))


def test_many_files_in_a_form_keep_their_order(client: httpx.Client, images: Direct) -> None:
    found = predictions(client.post("/predict", files=[("file", image_file(seed)) for seed in range(18)]))
    assert len(found) == 18
    for seed, prediction in enumerate(found):
        images.check(prediction, image_file(seed))


def test_a_text_file_in_a_form(client: httpx.Client, texts: Direct) -> None:
    [prediction] = predictions(client.post("/predict", files={"file": ("a.txt", text(1).encode())}))
    texts.check(prediction, text(1))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("content_type", ["image/*", "application/octet-stream", FORM, "text/plain", None])
def test_a_raw_image(client: httpx.Client, images: Direct, image_format: str, content_type: str | None) -> None:
    data = image_file(2, image_format)
    headers = {} if content_type is None else {"content-type": content_type}
    [prediction] = predictions(client.put("/predict", content=data, headers=headers))
    images.check(prediction, data)


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", FORM, "nonsense", None])
@pytest.mark.parametrize("value", [text(3), "BM: a ball game", "{ the ball }", "\ufeffthe Ball", "naïve ball"])
def test_a_raw_text(client: httpx.Client, texts: Direct, content_type: str | None, value: str) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    [prediction] = predictions(client.post("/predict", content=value.encode(), headers=headers))
    texts.check(prediction, value.removeprefix("\ufeff"))


@pytest.mark.parametrize("content_type", ["application/json", FORM, "text/plain;charset=UTF-8", None])
def test_json_texts(client: httpx.Client, texts: Direct, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = b'\n {"heads": 2, "inputs": [{"text": "the ball"}, {"text": "PARTY"}], "model": null}'
    found = predictions(client.post("/predict", content=body, headers=headers))
    texts.check(found[0], "the ball", heads=2)
    texts.check(found[1], "party", heads=2)


def test_json_images(client: httpx.Client, images: Direct) -> None:
    wrapped = base64.encodebytes(image_file(4)).decode()  # lines of 76 characters, as from the base64 command
    body = {"inputs": [{"image": wrapped}, {"image": encoded(image_file(5, "JPEG"))}], "top_k": 3}
    found = predictions(client.post("/predict", json=body))
    images.check(found[0], image_file(4))
    images.check(found[1], image_file(5, "JPEG"))
    for prediction in found:
        ranked = [entry["probability"] for entry in prediction["top_k"]]
        assert len(ranked) == 3
        assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_heads_from_query_form_and_json_agree(client: httpx.Client, images: Direct, heads: int) -> None:
    data = image_file(6)
    replies = [
        client.post("/predict", params={"heads": heads}, content=data),
        client.post("/predict", files={"file": data}, data={"heads": str(heads), "model": "tiny-image"}),
        client.post("/predict", json={"inputs": [{"image": encoded(data)}], "heads": heads}),
    ]
    for reply in replies:
        [prediction] = predictions(reply)
        images.check(prediction, data, heads=heads)


def test_min_confidence_stops_each_input_on_its_own(client: httpx.Client, images: Direct) -> None:
    found = predictions(
        client.post("/predict?min_confidence=0.6", files=[("file", image_file(seed)) for seed in range(16)])
    )
    for seed, prediction in enumerate(found):
        images.check(prediction, image_file(seed), min_confidence=0.6)
    assert len({prediction["heads_used"] for prediction in found}) > 1


def test_top_k_ends_at_the_number_of_classes(client: httpx.Client) -> None:
    [prediction] = predictions(client.post("/predict?top_k=1000", content=text(7).encode()))
    assert len(prediction["top_k"]) == 4
    assert sum(entry["probability"] for entry in prediction["top_k"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a/b"])
def test_an_odd_request_id_is_replaced(client: httpx.Client, given: str) -> None:
    reply = client.post("/predict", content=b"ball", headers={"x-request-id": given})
    assert reply.headers["x-request-id"] == reply.json()["id"] != given
    assert len(reply.json()["id"]) == 26


def test_request_ids_sort_by_time(client: httpx.Client) -> None:
    ids = [client.post("/predict", content=b"ball").json()["id"] for _ in range(20)]
    assert len(set(ids)) == 20
    assert [name[:10] for name in ids] == sorted(name[:10] for name in ids)
