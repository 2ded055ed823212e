"""Fixtures: one image and one text artifact, and the engines that are installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions
from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact
from tests.engines import ENGINE_NAMES

CORES = 1
"""Cores of most engines in these tests: the networks are tiny, so more threads would only wait for each other."""


@pytest.fixture(scope="session")
def image_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny-image"
    write_tiny_image_artifact(folder)
    return Artifact.open(folder)


@pytest.fixture(scope="session")
def text_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny-text"
    write_tiny_text_artifact(folder)
    return Artifact.open(folder)


@pytest.fixture(scope="session", params=["image", "text"])
def artifact(request: pytest.FixtureRequest, image_artifact: Artifact, text_artifact: Artifact) -> Artifact:
    return image_artifact if request.param == "image" else text_artifact


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """An image artifact that a test may damage."""
    write_tiny_image_artifact(tmp_path / "tiny-image")
    return tmp_path / "tiny-image"


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A text artifact that a test may damage."""
    write_tiny_text_artifact(tmp_path / "tiny-text")
    return tmp_path / "tiny-text"


@pytest.fixture(scope="session", params=ENGINE_NAMES)
def engine(request: pytest.FixtureRequest, artifact: Artifact) -> Iterator[Engine]:
    """Each engine with each artifact."""
    loaded = load_engine(artifact, request.param, EngineOptions(cores=CORES))
    yield loaded
    loaded.close()
