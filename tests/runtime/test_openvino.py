"""What the OpenVINO engine does beyond the interface: precisions, shapes, telemetry."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.artifact import Artifact
from runtime.engines import engine_class, load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import EngineError, UnsupportedModel
from runtime.parity import compare, heads_parity
from runtime.verify import at_length, read_reference
from tests.engines import ENGINE_NAMES
from tests.runtime.conftest import CORES

pytestmark = pytest.mark.skipif("openvino" not in ENGINE_NAMES, reason="OpenVINO is not installed")
OPTIONS = EngineOptions(cores=CORES, batch_sizes=(1, 4))


def _offers_bf16() -> bool:
    return "openvino" in ENGINE_NAMES and "bf16" in engine_class("openvino").precisions["fp32"]


@pytest.mark.skipif(not _offers_bf16(), reason="this CPU does not compute in bf16")
def test_bf16_is_what_was_asked_for_and_fp32_is_fp32(artifact: Artifact) -> None:
    inputs, references = read_reference(artifact)
    worst = {}
    for precision in ("fp32", "bf16"):
        engine = load_engine(artifact, "openvino", EngineOptions(cores=CORES, precision=precision))
        assert engine.info().precision == precision
        parities = [parity for _, parity in heads_parity(engine, inputs, references)]
        assert all(parity.holds for parity in parities)
        worst[precision] = max(parity.worst for parity in parities)
        engine.close()
    assert worst["bf16"] > 100 * worst["fp32"], "one of them was not computed as asked for"


@pytest.mark.skipif(not _offers_bf16(), reason="this CPU does not compute in bf16")
def test_auto_takes_the_engine_that_has_bf16(image_artifact: Artifact) -> None:
    engine = load_engine(image_artifact, "auto", EngineOptions(cores=CORES, precision="bf16", batch_sizes=(1,)))
    assert (engine.name, engine.precision) == ("openvino", "bf16")
    assert any(
        "onnxruntime for tiny-image: it does not execute fp32 artifacts in bf16" in note for note in engine.notes
    )
    engine.close()


def test_bf16_needs_a_cpu_for_it(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.openvino.cpu", lambda: ("Old Processor", ["avx2", "avx512f"]))
    monkeypatch.setattr(engine_class("openvino"), "precisions", {"fp32": ("fp32",)})
    with pytest.raises(UnsupportedModel, match="Old Processor has none of the CPU features avx512_bf16"):
        load_engine(image_artifact, "openvino", EngineOptions(cores=CORES, precision="bf16"))


@pytest.mark.parametrize("flags", [[], ["avx2", "fma"], ["avx512f", "avx512_vnni"]])
def test_emulated_bf16_is_not_native(flags: list[str]) -> None:
    from runtime.engines.openvino import native_bf16

    assert not native_bf16(flags)


def test_shapes_compiled_one_by_one_or_all_at_once(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of a small network, and how large ones are compiled."""
    inputs, references = read_reference(artifact)
    monkeypatch.setattr("runtime.engines.openvino.STATIC_BYTES", 0)
    engine = load_engine(artifact, "openvino", OPTIONS)
    assert all(parity.holds for _, parity in heads_parity(engine, inputs, references))
    for tokens in engine.lengths:
        cut, rows = at_length(artifact, inputs, tokens)
        assert all(
            compare(r[rows], f).holds for r, f in zip(references, engine.logits(cut, len(references)), strict=True)
        )
    engine.close()


def test_a_shape_that_was_not_compiled(text_artifact: Artifact) -> None:
    engine = load_engine(text_artifact, "openvino", OPTIONS)
    ids = np.ones((1, 5), dtype=np.int64)
    with pytest.raises(EngineError, match=r"not compiled for .* of shape \(1, 5\)"):
        engine.trunk({"input_ids": ids, "attention_mask": ids})
    engine.close()


def test_read_only_inputs(image_artifact: Artifact) -> None:
    engine = load_engine(image_artifact, "openvino", OPTIONS)
    inputs, references = read_reference(image_artifact)
    for tensor in inputs.values():
        tensor.flags.writeable = False
    assert compare(references[0], engine.logits(inputs, 1)[0]).holds
    engine.close()


def test_it_never_reports_anything(tmp_path: Path) -> None:
    """With a telemetry package that cannot be imported unnoticed."""
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('telemetry was imported')")
    script = "import sys, runtime.engines.openvino; assert 'openvino_telemetry' not in sys.modules; print('silent')"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "silent\n"), done.stderr
