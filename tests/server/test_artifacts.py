"""The tiny artifacts are genuine: both engines reproduce the reference logits, which numpy computed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.artifact import Artifact
from runtime.engines import engine_class
from runtime.engines.base import EngineOptions
from runtime.errors import EngineNotInstalled
from runtime.manifest import Manifest
from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact


@pytest.mark.parametrize("write", [write_tiny_image_artifact, write_tiny_text_artifact])
@pytest.mark.parametrize("engine_name", ["onnxruntime", "deepsparse"])
def test_engines_reproduce_the_reference(tmp_path: Path, write: Callable[[Path], Manifest], engine_name: str) -> None:
    manifest = write(tmp_path / "model")
    try:
        found = engine_class(engine_name)
    except EngineNotInstalled as error:
        pytest.skip(str(error))
    artifact = Artifact.open(tmp_path / "model")
    engine = found(artifact, EngineOptions(cores=2, batch_sizes=(1, 16)))
    reference = artifact.reference()
    features = engine.trunk({spec.name: reference[f"input.{spec.name}"] for spec in manifest.inputs})
    for index in range(len(manifest.heads)):
        expected = reference[f"logits.{index}"].astype(np.float32)
        assert expected.std(axis=0).min() > 0.1  # alive: the logits depend on the input
        np.testing.assert_allclose(engine.head(index, features), expected, atol=1e-4 * max(1, np.abs(expected).max()))
    assert Artifact.open(tmp_path / "model") == artifact  # an artifact is never written to
