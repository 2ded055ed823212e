"""What the DeepSparse engine does beyond the interface: bounded memory, one set of threads, streams."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import EngineError
from runtime.memory import MemoryLimit
from tests.artifacts import LENGTHS, write_tiny_text_artifact
from tests.engines import needs_deepsparse
from tests.runtime.conftest import CORES
from tests.runtime.tampering import edit_graph

pytestmark = needs_deepsparse


def test_shapes_that_do_not_fit_into_memory_are_refused(
    text_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.engines.deepsparse import BYTES_PER_WEIGHT, DeepSparseEngine

    needed = 3 * 2 * text_artifact.manifest.sparsity.weights * BYTES_PER_WEIGHT
    limits = [MemoryLimit("cgroup v2 limit", needed - 1, None)]
    monkeypatch.setattr("runtime.engines.deepsparse.memory_limits", lambda: limits)
    monkeypatch.setattr(DeepSparseEngine, "_compile", lambda *_: pytest.fail("it began to compile"))
    with pytest.raises(
        EngineError, match=r"6 shapes \(3 batch sizes x 2 lengths\).*cgroup v2 limit.*fewer batch sizes"
    ):
        load_engine(text_artifact, "deepsparse", EngineOptions(cores=CORES, batch_sizes=(1, 2, 4)))


def test_many_shapes_are_noted(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.deepsparse.MANY_SHAPES", 1)
    monkeypatch.setattr("runtime.engines.deepsparse.memory_limits", list)  # a system that tells none
    engine = load_engine(image_artifact, "deepsparse", EngineOptions(cores=CORES, batch_sizes=(1, 2)))
    assert any(note.startswith("compiled for 2 shapes (2 batch sizes), each of about") for note in engine.notes)
    engine.close()


@pytest.mark.parametrize(("cores", "streams", "concurrency"), [(1, 1, 1), (1, 2, 1), (2, 2, 2)])
def test_streams_are_as_many_as_cores_allow(
    image_artifact: Artifact, cores: int, streams: int, concurrency: int
) -> None:
    engine = load_engine(image_artifact, "deepsparse", EngineOptions(cores=cores, streams=streams, batch_sizes=(1,)))
    assert engine.concurrency == engine.info().concurrency == concurrency
    engine.close()


def test_engines_share_their_threads(image_artifact: Artifact, text_artifact: Artifact) -> None:
    from runtime.engines.deepsparse import DeepSparseEngine

    options = EngineOptions(cores=CORES, batch_sizes=(1,), lengths=None)
    first, second = DeepSparseEngine(image_artifact, options), DeepSparseEngine(text_artifact, options)
    assert first._context is second._context
    ids = np.ones((1, text_artifact.manifest.preprocessing.lengths[0]), dtype=np.int64)  # type: ignore[union-attr]
    assert np.isfinite(second.logits({"input_ids": ids, "attention_mask": ids}, 1)[0]).all()
    first.close()
    second.close()


def test_operators_that_nothing_reads_are_left_out(tmp_path: Path) -> None:
    """One in its place makes DeepSparse end the process."""
    write_tiny_text_artifact(tmp_path / "text")

    def pass_over_the_product(model: ModelProto) -> None:
        relu = model.graph.node[-1]
        relu.input[0] = "embedded"

    edit_graph(tmp_path / "text", "trunk.onnx", pass_over_the_product)
    artifact = Artifact.open(tmp_path / "text")
    ids = np.arange(LENGTHS[0], dtype=np.int64)[None]
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    options = EngineOptions(cores=CORES, batch_sizes=(1,))
    found, expected = (load_engine(artifact, name, options) for name in ("deepsparse", "onnxruntime"))
    np.testing.assert_allclose(found.logits(inputs, 1)[0], expected.logits(inputs, 1)[0], atol=1e-5)
    found.close()
    expected.close()
