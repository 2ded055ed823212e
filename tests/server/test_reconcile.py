"""What is served follows what is desired, under load, with no answer lost or mixed up; what is bad changes nothing."""

import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.errors import StartupError
from server.serving_file import Entry, write_serving
from server.settings import Settings
from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact
from tests.server.gate import Gate
from tests.server.inputs import image_file, text
from tests.server.service import Direct, Service

NEVER = 1e6
"""Polling interval in seconds of services that look when they are told to."""
SEEDS = range(12)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model for images and two of one for texts, with other weights."""
    folder = tmp_path_factory.mktemp("versions")
    for seed, version in enumerate(("1", "2")):
        write_tiny_image_artifact(folder / "tiny-image" / version, version=version, seed=seed)
        write_tiny_text_artifact(folder / "tiny-text" / version, version=version, seed=seed)
    return folder


@pytest.fixture(scope="module")
def direct(versions: Path) -> Iterator[dict[str, Direct]]:
    """A bare predictor of each version of the model for images."""
    predictors = {version: Direct(versions / "tiny-image" / version, "onnxruntime") for version in ("1", "2")}
    yield predictors
    for predictor in predictors.values():
        predictor.close()


@pytest.fixture
def folder(tmp_path: Path, versions: Path) -> Path:
    """A copy of the versions that a test may alter."""
    shutil.copytree(versions, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.models.COSTS_BUDGET_SECONDS", 0.0)


def serving(models: Path) -> Path:
    return models.parent / "serving.yaml"


def desire(models: Path, **wanted: str | Entry) -> None:
    """Write the file: `tiny_image="2"`."""
    entries = {
        name.replace("_", "-"): Entry(version=entry) if isinstance(entry, str) else entry
        for name, entry in wanted.items()
    }
    write_serving(serving(models), entries)


def start(models: Path, **settings: Any) -> Service:
    given = {"poll_seconds": NEVER, "batch_sizes": (1, 4), **settings}
    return Service(models, serving_file=serving(models), **given)


def image_version(service: Service) -> str:
    reply = service.client.post("/predict", content=image_file(0))
    assert reply.status_code == 200, reply.text
    version: str = reply.json()["version"]
    return version


def metric(service: Service, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(service.client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def open_request(seed: int) -> dict[str, Any]:
    """Arguments for httpx: the same image as an inference request of the open protocol."""
    image = image_file(seed)
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(image) + 4}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    return {"content": head + len(image).to_bytes(4, "little") + image, "headers": headers}


def test_switching_versions_under_load(folder: Path, direct: dict[str, Direct]) -> None:
    expected = {
        version: [predictor.predict(image_file(seed)) for seed in SEEDS] for version, predictor in direct.items()
    }
    best = {version: [float(one.probabilities.max()) for one in found] for version, found in expected.items()}
    assert all(abs(one - two) > 1e-3 for one, two in zip(best["1"], best["2"], strict=True))
    desire(folder, tiny_image="1")
    done = threading.Event()

    def plain(service: Service, seed: int) -> tuple[str, float]:
        reply = service.client.post("/predict", content=image_file(seed))
        assert reply.status_code == 200, reply.text
        return reply.json()["version"], reply.json()["predictions"][0]["probability"]

    def open_inference(service: Service, seed: int) -> tuple[str, float]:
        reply = service.client.post("/v2/models/tiny-image/infer", **open_request(seed))
        assert reply.status_code == 200, reply.text
        return reply.json()["model_version"], max(reply.json()["outputs"][0]["data"])

    def ask(service: Service, thread: int) -> set[str]:
        seen = set()
        number = thread
        while not done.is_set():
            seed = SEEDS[number % len(SEEDS)]
            version, probability = (plain, open_inference)[thread % 2](service, seed)
            assert probability == pytest.approx(best[version][seed], abs=1e-5), (version, seed)
            seen.add(version)
            number += 1
        return seen

    with start(folder) as service, ThreadPoolExecutor(6) as pool:
        service.wait()
        asking = [pool.submit(ask, service, thread) for thread in range(6)]
        try:
            for version in ("2", "1", "2"):
                desire(folder, tiny_image=version)
                service.reconciling().result()
                assert image_version(service) == version
                assert service.client.get("/readyz").status_code == 200
        finally:
            done.set()
        seen = [one.result() for one in asking]
        assert set.union(*seen[::2]) == set.union(*seen[1::2]) == {"1", "2"}
        assert metric(service, "neurotrails_model_changes_total", model="tiny-image", change="retired") == 3
        assert metric(service, "neurotrails_model_info", model="tiny-image", version="1") is None
        assert metric(service, "neurotrails_model_info", model="tiny-image", version="2") == 1
        assert metric(service, "neurotrails_serving_problems") == 0
        assert service.client.get("/v2/models/tiny-image/versions/2").status_code == 200
        reply = service.client.get("/v2/models/tiny-image/versions/1")
        assert (reply.status_code, "version '2'" in reply.json()["error"]) == (404, True)
        assert service.client.get("/page/describe").json()["models"][0]["version"] == "2"


def test_the_old_version_stays_until_its_requests_are_answered(folder: Path, direct: dict[str, Direct]) -> None:
    desire(folder, tiny_image="1", tiny_text="1")
    with start(folder) as service, ThreadPoolExecutor(2) as pool:
        service.wait()
        engine = service.core._models.named("tiny-image").predictor.engine
        trunk, close = engine.trunk, engine.close
        entered, release, closed = threading.Event(), threading.Event(), threading.Event()

        def slow_trunk(inputs: Any) -> Any:
            entered.set()
            release.wait()
            return trunk(inputs)

        def seen_close() -> None:
            closed.set()
            close()

        engine.trunk = slow_trunk  # type: ignore[method-assign]
        engine.close = seen_close  # type: ignore[method-assign]
        old = pool.submit(service.client.post, "/predict", content=image_file(3))
        try:
            entered.wait()
            desire(folder, tiny_image="2", tiny_text="2")
            switching = service.reconciling()
            while service.state("tiny-image").retiring != "1":
                assert not switching.done()
            new = service.client.post("/predict", content=image_file(3)).json()
            assert new["version"] == "2"
            direct["2"].check(new["predictions"][0], image_file(3))
            assert not closed.is_set()
            text_state = service.state("tiny-text")  # one replacement at a time: its turn comes when the other is gone
            assert (text_state.live, text_state.loading) == ("1", None)
        finally:
            release.set()
        answer = old.result().json()
        assert answer["version"] == "1"
        direct["1"].check(answer["predictions"][0], image_file(3))
        switching.result()
        assert closed.is_set()
        assert (service.state("tiny-image").retiring, service.state("tiny-text").live) == (None, "2")


def test_a_request_keeps_the_version_that_its_body_is_read_for(folder: Path, direct: dict[str, Direct]) -> None:
    desire(folder, tiny_image="1")
    rest = threading.Event()
    request = open_request(3)

    def body() -> Iterator[bytes]:
        yield request["content"][:100]
        rest.wait()
        yield request["content"][100:]

    with start(folder) as service, ThreadPoolExecutor(1) as pool:
        model = service.wait().core._models.named("tiny-image")
        post = service.client.post
        old = pool.submit(post, "/v2/models/tiny-image/infer", content=body(), headers=request["headers"])
        try:
            while not model.pins._count:
                assert not old.done()
            desire(folder, tiny_image="2")
            switching = service.reconciling()
            while image_version(service) != "2":
                assert not switching.done()
        finally:
            rest.set()
        reply = old.result().json()
        assert reply["model_version"] == "1"
        best = direct["1"].predict(image_file(3)).probabilities.max()
        assert max(reply["outputs"][0]["data"]) == pytest.approx(best, abs=1e-5)
        switching.result()


def test_a_tampered_version_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = folder / "tiny-image" / "2" / "head_1.onnx"
    genuine = weights.read_bytes()
    weights.write_bytes(genuine[:-1] + bytes([genuine[-1] ^ 1]))
    desire(folder, tiny_image="1")
    with start(folder) as service:
        service.wait()
        desire(folder, tiny_image="2")
        for _ in range(2):
            service.reconciling().result()
            assert image_version(service) == "1"
        state = service.state("tiny-image")
        assert (state.live, state.desired, state.available) == ("1", "2", ("2", "1"))
        assert "head_1.onnx has sha256" in str(state.failure)
        assert service.core.problems() == (state.failure,)
        [line] = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert line == f"{state.failure} Version 1 goes on."
        assert metric(service, "neurotrails_model_changes_total", change="failed") == 1  # and tried once
        assert metric(service, "neurotrails_serving_problems") == 1
        assert service.client.get("/readyz").status_code == 200
        weights.write_bytes(genuine)
        service.reconciling().result()
        assert image_version(service) == "2"
        assert service.core.problems() == ()
        assert metric(service, "neurotrails_serving_problems") == 0


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry(version="3"), "no version '3' .* the versions are: 2, 1"),
        (Entry(version="2", engine="steam"), "steam"),
        (Entry(version="2", precision="fp8"), "fp8"),
        (Entry(version="2", min_heads=4), "3 heads"),
    ],
)
def test_what_cannot_be_done_changes_nothing(versions: Path, tmp_path: Path, entry: Entry, reason: str) -> None:
    file = tmp_path / "serving.yaml"
    write_serving(file, {"tiny-image": Entry(version="1")})
    with Service(versions, serving_file=file, poll_seconds=NEVER, batch_sizes=(1,)) as service:
        service.wait()
        write_serving(file, {"tiny-image": entry})
        service.reconciling().result()
        assert image_version(service) == "1"
        [problem] = service.core.problems()
        assert re.search(reason, problem)
        write_serving(file, {"tiny-image": Entry(version="1")})
        service.reconciling().result()
        assert service.core.problems() == ()


def test_a_broken_or_missing_file_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    desire(folder, tiny_image="1")
    with start(folder) as service:
        service.wait()
        serving(folder).write_text("models: {tiny-image: {version: 2}")
        for _ in range(2):
            service.reconciling().result()
        [problem] = service.core.problems()
        assert "is no YAML" in problem
        serving(folder).unlink()
        service.reconciling().result()
        [problem] = service.core.problems()
        assert "is gone" in problem
        assert service.state("tiny-image").live == "1"
        assert service.client.get("/readyz").status_code == 200
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
        folder.rename(folder.with_name("moved"))
        service.reconciling().result()
        assert "does not exist" in service.core.problems()[0]
        folder.with_name("moved").rename(folder)
        desire(folder, tiny_image="2")
        service.reconciling().result()
        assert service.core.problems() == ()
        assert image_version(service) == "2"


def test_models_come_and_go(folder: Path) -> None:
    here = Entry(engine="onnxruntime", precision="fp32")
    desire(folder, tiny_image=here, tiny_text=here.model_copy(update={"version": "1", "min_heads": 2}))
    with start(folder, engine="steam") as service:
        client = service.wait().client
        found = {model["name"]: model for model in client.get("/models").json()["models"]}
        assert found["tiny-image"]["version"] == "2"
        assert (found["tiny-text"]["version"], found["tiny-text"]["engine"]) == ("1", "onnxruntime")
        assert (found["tiny-text"]["min_heads"], found["tiny-text"]["default"]) == (2, True)
        desire(folder)
        service.reconciling().result()
        assert client.get("/models").json()["models"] == []
        assert client.get("/readyz").status_code == 200
        reply = client.post("/predict?model=tiny-text", content=text(0).encode())
        assert (reply.status_code, reply.json()["code"]) == (404, "unknown_model")
        assert client.post("/predict", content=text(0).encode()).json()["code"] == "no_default_model"
        assert client.get("/v2/models/tiny-text/ready").status_code == 404
        assert metric(service, "neurotrails_model_info") is None
        desire(folder, tiny_text=here)
        service.reconciling().result()
        assert client.post("/predict", content=text(0).encode()).json()["version"] == "2"


def test_without_a_file_the_latest_of_everything_is_served(folder: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    (folder / "tiny-image" / "2").rename(later)
    with start(folder) as service:
        service.wait()
        assert [card.manifest.version for card in service.core.describe()] == ["1", "2"]
        later.rename(folder / "tiny-image" / "2")
        shutil.rmtree(folder / "tiny-text")
        service.reconciling().result()
        assert [card.manifest.version for card in service.core.describe()] == ["2", "2"]
        assert service.state("tiny-text").available == ()


def test_polling_finds_a_change_by_itself(folder: Path) -> None:
    desire(folder, tiny_image="1")
    with start(folder, poll_seconds=0.01) as service:
        service.wait()
        desire(folder, tiny_image="2")
        while image_version(service) != "2":
            pass


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("models: {", "is no YAML"),
        ("models: {tiny-image: {version: 9}}", "no version '9'"),
        ("models: {tiny-image: {engine: steam}}", "steam"),
        ("models: {unknown: {}}", "no model 'unknown'"),
    ],
)
def test_a_bad_start_is_no_start(versions: Path, tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(content)
    with Service(versions, serving_file=file) as service:
        [failure] = service.wait().failures
        assert isinstance(failure, StartupError)
        assert named in str(failure)
        assert service.client.get("/readyz").status_code == 503


def test_stopping_while_a_version_is_being_loaded(folder: Path, gate: Gate) -> None:
    desire(folder, tiny_image="1")
    with start(folder) as service:
        service.wait()
        gate.forget()
        gate.open.clear()
        desire(folder, tiny_image="2")
        service.reconciling()
        gate.entered.acquire()  # its warm-up has begun
        assert service.state("tiny-image").loading == "2"
        service.stop()
        gate.release()


def test_the_search_path_is_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRAILS_MODELS", "models:/srv/more")
    assert Settings().models == (Path("models"), Path("/srv/more"))
    assert Settings(models=Path("one")).models == (Path("one"),)  # type: ignore[arg-type]
    monkeypatch.setenv("NEUROTRAILS_MODELS", "")
    with pytest.raises(ValueError, match="models"):
        Settings()
