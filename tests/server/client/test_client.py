"""The client against the real server: every kind of input, reply and refusal."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import server.client
from runtime.errors import NeurotrailsError
from runtime.labelled import HeadOpinion, LabelledPrediction, RankedLabel
from server import schema
from server.client import (
    Client,
    DeadlineExceeded,
    InvalidURL,
    Model,
    NotReady,
    Overloaded,
    Reply,
    ServerRefused,
    Timing,
    Unreachable,
)
from tests.server.gate import Gate
from tests.server.inputs import image_file, text
from tests.server.service import Direct, Service

pytestmark = [
    pytest.mark.parametrize(
        "engine_name", ["onnxruntime"], scope="session", indirect=True
    ),  # no engine is different over HTTP
    pytest.mark.usefixtures("engine_name"),
]

ROOT = Path(__file__).parents[3]


def url(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"


@pytest.fixture
def asking(service: Service) -> Iterator[Client]:
    with Client(url(service)) as client:
        yield client


@pytest.fixture
def held(models: Path, gate: Gate) -> Iterator[Service]:
    """A service with room for one image, whose engine stands still."""
    with Service(models, max_inputs=1, max_waiting_rows=1) as service:
        service.wait()
        gate.forget()
        gate.only = "tiny-image"
        gate.open.clear()
        yield service
        gate.release()


def check(direct: Direct, prediction: LabelledPrediction, data: bytes | str, **wish: Any) -> None:
    direct.check(
        {name: getattr(prediction, name) for name in ("label", "index", "probability", "heads_used", "heads_total")}
        | {"stopped_by": prediction.stopped_by, "disagreement": prediction.disagreement}
        | {"heads": [vars(each) for each in prediction.heads]},
        data,
        **wish,
    )


@pytest.mark.parametrize(
    "data", ["ball game", '{"inputs": [{"text": "no JSON, but a text"}]}', "BM as a word", "Äpfel\n\n☃"]
)
def test_a_text(asking: Client, texts: Direct, data: str) -> None:
    reply = asking.predict(data)
    assert (reply.model, reply.version, reply.engine, reply.vote) == ("tiny-text", "1", "onnxruntime", "probabilities")
    [prediction] = reply.predictions
    check(texts, prediction, data)
    assert reply.timing_ms.total >= reply.timing_ms.compute > 0


def test_images_as_bytes_and_as_files(asking: Client, images: Direct, tmp_path: Path) -> None:
    path = tmp_path / "image.webp"
    path.write_bytes(image_file(1, "WEBP"))
    sent = [image_file(0), image_file(1, "WEBP"), image_file(2, "JPEG")]
    found = [*asking.predict([sent[0], path, sent[2]]).predictions, *asking.predict(path).predictions]
    for prediction, data in zip(found, [*sent, sent[1]], strict=True):
        check(images, prediction, data)


def test_texts_and_files_of_text_together(asking: Client, texts: Direct, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text(3))
    found = asking.predict([text(1), path, b'{"inputs": []}']).predictions
    for prediction, data in zip(found, [text(1), text(3), '{"inputs": []}'], strict=True):
        check(texts, prediction, data)


def test_wishes(asking: Client, images: Direct) -> None:
    wishes: list[dict[str, Any]] = [{"heads": 2}, {"min_confidence": 0.5}]
    for wish in wishes:
        [prediction] = asking.predict(
            image_file(5), model="tiny-image", timeout_seconds=20, top_k=3, **wish
        ).predictions
        check(images, prediction, image_file(5), **wish)
        ranked = [each.probability for each in prediction.top_k]
        assert len(ranked) == 3
        assert ranked == sorted(ranked, reverse=True)
        assert prediction.top_k[0] == RankedLabel(prediction.label, prediction.index, prediction.probability)


def test_models_and_readiness(asking: Client, service: Service) -> None:
    assert asking.ready()
    described = service.client.get("/models").json()["models"]
    assert [model.name for model in asking.models()] == ["tiny-image", "tiny-text"]
    for model, document in zip(asking.models(), described, strict=True):
        assert model.labels == tuple(document["labels"])
        assert (model.heads, model.min_heads, model.modality) == (3, 3, document["modality"])
        assert len(model.early_exit.points) == len(document["early_exit"]["points"])
        assert [each.split for each in model.evaluation] == [each["split"] for each in document["evaluation"]]


@pytest.mark.parametrize(
    ("inputs", "wish", "status", "code"),
    [
        ([], {}, 400, "empty_input"),
        ("", {}, 400, "empty_input"),
        ("ball", {"heads": 4}, 400, "bad_heads"),
        ("ball", {"target_accuracy": 0.5, "heads": 1}, 400, "bad_target_accuracy"),
        ("ball", {"model": "nö/such?model"}, 404, "unknown_model"),
        (["ball", image_file(0)], {}, 400, "mixed_inputs"),
        (["ball"] * 21, {}, 413, "too_many_inputs"),
        (b"a" * 250_000, {}, 413, "body_too_large"),
        (b"\xff\x00", {}, 415, "unrecognized_input"),
    ],
)
def test_refusals(asking: Client, texts: Direct, inputs: Any, wish: dict[str, Any], status: int, code: str) -> None:
    with pytest.raises(ServerRefused) as caught:
        asking.predict(inputs, **wish)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.id
    assert str(caught.value).endswith(".")
    check(texts, asking.predict("goal").predictions[0], "goal")  # the client goes on


def test_no_input_at_all(asking: Client) -> None:
    with pytest.raises(TypeError, match=r"not <class 'numpy.ndarray'>"):
        asking.predict([np.zeros(3)])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError):
        asking.predict(Path("nowhere.png"))


def test_overload(held: Service, gate: Gate) -> None:
    with ThreadPoolExecutor(1) as pool, Client(url(held)) as client:
        first = pool.submit(client.predict, image_file(0))
        gate.entered.acquire()
        with pytest.raises(Overloaded) as caught:
            client.predict(image_file(1))
        assert (caught.value.status, caught.value.code) == (429, "overloaded")
        assert 0 < caught.value.retry_after_seconds < 60
        gate.release()
        assert first.result().model == "tiny-image"


def test_a_retry_gets_through_once_there_is_room(held: Service, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        gate.release()
        first.result()

    with ThreadPoolExecutor(1) as pool, Client(url(held), retries=1) as client:
        first = pool.submit(client.predict, image_file(0))
        gate.entered.acquire()
        monkeypatch.setattr("server.client.client.time.sleep", sleep)
        assert client.predict(image_file(1)).model == "tiny-image"
    assert len(slept) == 1


def test_the_server_says_that_the_time_is_over(held: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.client.client.GRACE_SECONDS", 60.0)  # however busy this machine is
    with Client(url(held)) as client, pytest.raises(DeadlineExceeded, match="within the timeout of"):
        client.predict(image_file(0), timeout_seconds=0.1)


def test_the_server_says_nothing_in_time(held: Service) -> None:
    with (
        Client(url(held), timeout_seconds=0.1) as client,
        pytest.raises(DeadlineExceeded, match=r"no reply from http|time for the call was over"),
    ):
        client.predict(image_file(0))


def test_a_server_that_wants_a_key(models: Path) -> None:
    key = "a key that is long enough".replace(" ", "-")
    with Service(models, api_keys=(key,)) as service:
        service.wait()
        with Client(url(service), api_key=key) as client:
            assert client.predict("ball").model == "tiny-text"
        for wrong in (None, "another"):
            with Client(url(service), api_key=wrong) as client:
                assert client.ready()  # probes are open
                with pytest.raises(ServerRefused) as caught:
                    client.models()
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")


def test_an_engine_that_fails(models: Path, gate: Gate) -> None:
    with Service(models) as service, Client(url(service.wait())) as client:
        gate.failure = RuntimeError("out of order")
        with pytest.raises(ServerRefused, match="The engine failed on this request") as caught:
            client.predict(image_file(0))
    assert (caught.value.status, caught.value.code) == (500, "engine_failure")


def test_a_server_that_still_loads(models: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = threading.Event()

    def load(*arguments: Any) -> Any:
        loading.wait()
        return gate.load(*arguments)

    monkeypatch.setattr("server.models.load_engine", load)
    with Service(models) as service, Client(url(service)) as client:
        assert not client.ready()
        with pytest.raises(NotReady, match="still loading") as caught:
            client.predict("ball")
        assert (caught.value.status, caught.value.retry_after_seconds) == (503, 1.0)
        with pytest.raises(NotReady):
            client.models()
        loading.set()
        service.wait()
        assert client.ready()


def test_a_server_that_is_gone(models: Path) -> None:
    with Service(models) as service:
        client = Client(url(service.wait()))
        client.predict("ball")
    with pytest.raises(Unreachable, match="Connection refused"):
        client.predict("ball")


def test_a_server_without_tls(service: Service) -> None:
    with Client(url(service).replace("http:", "https:")) as client, pytest.raises(Unreachable, match="SSL"):
        client.ready()


def test_threads_share_a_client(asking: Client, images: Direct) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda seed: asking.predict(image_file(seed), heads=2), range(24)))
    for seed, reply in enumerate(replies):
        check(images, reply.predictions[0], image_file(seed), heads=2)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "http://u:p@host",
        "http://host?x=1",
        "http://host:x",
        "http://h/a b",
    ],
)
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        Client(wrong)
    assert isinstance(caught.value, NeurotrailsError)
    assert repr(wrong) in str(caught.value)


def test_what_cannot_be() -> None:
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout_seconds must be more than 0"):
            Client(timeout_seconds=seconds)
    with pytest.raises(ValueError, match="retries must be at least 0, not -1"):
        Client(retries=-1)


def test_replies_have_the_fields_that_the_server_documents() -> None:
    for mine, documented in {
        Reply: schema.PredictReply,
        LabelledPrediction: schema.PredictionReply,
        RankedLabel: schema.RankedLabel,
        HeadOpinion: schema.HeadOpinion,
        Timing: schema.TimingReply,
    }.items():
        assert [field.name for field in fields(mine)] == list(documented.model_fields)  # type: ignore[attr-defined]
    assert {field.name for field in fields(Model)} <= set(schema.ModelReply.model_fields)


def test_the_public_names() -> None:
    assert sorted(server.client.__all__) == server.client.__all__
    errors = import_module("server.client.errors")
    shown = {name for name in vars(errors) if isinstance(vars(errors)[name], type) and not name.startswith("_")}
    assert shown - {"NeurotrailsError"} <= set(server.client.__all__)
    assert all(name in (errors.__doc__ or "") for name in shown)


def test_it_needs_nothing_that_serving_needs() -> None:
    missing = ["fastapi", "starlette", "uvicorn", "prometheus_client", "numpy", "onnx", "torch", "PIL", "tokenizers"]
    script = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import json, server.client\n"
    script += "print(json.dumps([name for name in sys.modules if name.split('.')[0] in ('server', 'runtime')]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name in json.loads(done.stdout):
        assert name in ("server", "runtime", "runtime.errors", "runtime.labelled") or name.startswith("server.client")
