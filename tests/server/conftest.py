"""Fixtures: a folder with one image and one text artifact; for each engine, a service on it and bare predictors."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact
from tests.engines import ENGINE_NAMES
from tests.server.gate import Gate
from tests.server.service import Direct, Service


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_image_artifact(folder / "tiny-image")
    write_tiny_text_artifact(folder / "tiny-text")
    return folder


@pytest.fixture(scope="session", params=ENGINE_NAMES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr("server.models.load_engine", gate.load)
    yield gate
    gate.release()


@pytest.fixture(scope="session")
def service(models: Path, engine_name: str) -> Iterator[Service]:
    limits = {"max_body_bytes": 200_000, "max_inputs": 20, "max_pixels": 10_000, "max_text_chars": 5_000}
    with Service(models, engine=engine_name, **limits) as running:
        yield running.wait()


@pytest.fixture(scope="session")
def client(service: Service) -> httpx.Client:
    return service.client


@pytest.fixture(scope="session")
def images(models: Path, engine_name: str) -> Iterator[Direct]:
    direct = Direct(models / "tiny-image", engine_name)
    yield direct
    direct.close()


@pytest.fixture(scope="session")
def texts(models: Path, engine_name: str) -> Iterator[Direct]:
    direct = Direct(models / "tiny-text", engine_name)
    yield direct
    direct.close()


@pytest.fixture(scope="session")
def shipped() -> Iterator[Service]:
    """A service on the artifacts that ship with the repository."""
    with Service(Path("models"), engine="onnxruntime", batch_sizes=(1, 4)) as running:
        yield running.wait()
