"""Fixtures: a folder with one image and one text artifact, a service on it, bare predictors of both."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact
from tests.server.service import Direct, Service


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_image_artifact(folder / "tiny-image")
    write_tiny_text_artifact(folder / "tiny-text")
    return folder


@pytest.fixture(scope="session")
def service(models: Path) -> Iterator[Service]:
    with Service(models, max_body_bytes=200_000, max_inputs=20, max_pixels=10_000, max_text_chars=5_000) as running:
        yield running.wait()


@pytest.fixture(scope="session")
def client(service: Service) -> httpx.Client:
    return service.client


@pytest.fixture(scope="session")
def images(models: Path) -> Direct:
    return Direct(models / "tiny-image")


@pytest.fixture(scope="session")
def texts(models: Path) -> Direct:
    return Direct(models / "tiny-text")
