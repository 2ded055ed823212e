"""The tiny artifacts are genuine: all engines reproduce the reference logits, which numpy computed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.manifest import Manifest
from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact


@pytest.mark.parametrize("write", [write_tiny_image_artifact, write_tiny_text_artifact])
def test_engines_reproduce_the_reference(tmp_path: Path, write: Callable[[Path], Manifest], engine_name: str) -> None:
    manifest = write(tmp_path / "model")
    artifact = Artifact.open(tmp_path / "model")
    engine = load_engine(artifact, engine_name, EngineOptions(cores=2, batch_sizes=(1, 16)))
    reference = artifact.reference()
    features = engine.trunk({spec.name: reference[f"input.{spec.name}"] for spec in manifest.inputs})
    for index in range(len(manifest.heads)):
        expected = reference[f"logits.{index}"].astype(np.float32)
        assert expected.std(axis=0).min() > 0.1  # alive: the logits depend on the input
        np.testing.assert_allclose(engine.head(index, features), expected, atol=1e-4 * max(1, np.abs(expected).max()))
    engine.close()
    assert Artifact.open(tmp_path / "model") == artifact  # an artifact is never written to
