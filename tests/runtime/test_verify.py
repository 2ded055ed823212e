import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save

from runtime.artifact import Artifact
from runtime.engines import engine_class
from runtime.errors import ArtifactError, EngineError, EngineNotInstalled
from runtime.verify import at_length, read_reference, verify
from tests.artifacts import LENGTHS
from tests.engines import ENGINE_NAMES
from tests.runtime.conftest import CORES
from tests.runtime.tampering import edit_graph, edit_manifest, replace_file


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_a_good_artifact(artifact: Artifact, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verify(str(artifact.folder), engine=[name], cores=CORES)
    lines = capsys.readouterr().out.splitlines()
    checks = [line.split(":")[0].split()[1] for line in lines]
    texts = artifact.manifest.modality == "text"
    ways = 2 + (len(LENGTHS) if texts else 0)
    precisions = engine_class(name).precisions["fp32"]
    assert checks == ["files", "graphs", "weights", *([name] * ways * len(precisions))]
    assert [line.split(":")[0].split()[-1] for line in lines[3:]] == [each for each in precisions for _ in range(ways)]
    assert all(line.startswith("ok ") for line in lines)
    sparsity = artifact.manifest.sparsity
    assert f"{sparsity.kept:,} of {sparsity.weights:,} kept" in lines[2]
    if texts:
        assert "32 rows of 32 tokens" in lines[-1]


def test_all_installed_engines_are_checked(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(str(image_folder), cores=CORES)
    lines = capsys.readouterr().out
    assert "ok    onnxruntime" in lines
    assert "ok    native" in lines
    assert ("ok    deepsparse" in lines) != ("skip  deepsparse: not installed" in lines)


def test_an_engine_that_is_named_must_exist(image_folder: Path) -> None:
    with pytest.raises(EngineError, match="no engine 'abacus'"):
        verify(str(image_folder), engine=["abacus"], cores=CORES)


def test_an_engine_that_is_named_must_be_installed(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepsparse", None)
    monkeypatch.delitem(sys.modules, "runtime.engines.deepsparse", raising=False)
    with pytest.raises(EngineNotInstalled, match="pip install"):
        verify(str(image_folder), engine=["deepsparse"], cores=CORES)


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_a_weight_that_changed_its_value(image_folder: Path, name: str) -> None:
    def change(model: ModelProto) -> None:
        values = model.graph.node[0].attribute[0].sparse_tensor.values
        changed = 1.5 * numpy_helper.to_array(values)
        values.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), values.name))

    edit_graph(image_folder, "head_2.onnx", change)
    with pytest.raises(EngineError, match=rf"{name} .* other logits than PyTorch: head 2, 32 rows"):
        verify(str(image_folder), engine=[name], cores=CORES)


def _claim(stage: str, name: str, what: str, more: int) -> Any:
    def change(document: dict[str, Any]) -> None:
        layer = next(e for e in document["sparsity"]["layers"] if (e["stage"], e["name"]) == (stage, name))
        layer[what] += more
        document["sparsity"][what] += more

    return change


@pytest.mark.parametrize(("what", "more"), [("kept", 1), ("nonzero", -1)])
def test_a_manifest_that_miscounts(image_folder: Path, what: str, more: int) -> None:
    edit_manifest(image_folder, _claim("head_1.onnx", "weight", what, more))
    with pytest.raises(ArtifactError, match=rf"head_1\.onnx: weight has {what} 144 in the file.* says {144 + more}"):
        verify(str(image_folder), engine=["onnxruntime"], cores=CORES)


def test_a_dense_layer_is_counted_too(image_folder: Path) -> None:
    edit_manifest(image_folder, _claim("head_0.onnx", "classifier", "nonzero", -1))
    with pytest.raises(ArtifactError, match="classifier has nonzero 40 in the file"):
        verify(str(image_folder), engine=["onnxruntime"], cores=CORES)


def test_a_layer_that_does_not_exist(image_folder: Path) -> None:
    edit_manifest(image_folder, lambda document: document["sparsity"]["layers"][0].update(name="ghost"))
    with pytest.raises(ArtifactError, match=r"trunk\.onnx holds no weight 'ghost'"):
        verify(str(image_folder), engine=["onnxruntime"], cores=CORES)


def test_a_reference_with_other_tensors(image_folder: Path) -> None:
    tensors = load_file(image_folder / "reference.safetensors")
    del tensors["logits.1"]
    replace_file(image_folder, "reference.safetensors", save(tensors))
    with pytest.raises(ArtifactError, match=r"must hold \['input\.image', 'logits\.0', 'logits\.1', 'logits\.2'\]"):
        verify(str(image_folder), engine=["onnxruntime"], cores=CORES)


def test_a_reference_with_other_shapes(image_folder: Path) -> None:
    tensors = load_file(image_folder / "reference.safetensors")
    tensors["logits.1"] = tensors["logits.1"][:, :4].copy()
    replace_file(image_folder, "reference.safetensors", save(tensors))
    with pytest.raises(ArtifactError, match="holds logits of shape"):
        verify(str(image_folder), engine=["onnxruntime"], cores=CORES)


def _reference(folder: Path, change: Callable[[dict[str, NDArray[Any]]], Any]) -> None:
    """Change the tensors of the reference."""
    tensors = load_file(folder / "reference.safetensors")
    change(tensors)
    replace_file(folder, "reference.safetensors", save(tensors))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t["logits.1"].__setitem__((0, 0), np.inf), "logits.1 holds values that are not finite"),
        (lambda t: t["input.image"].__setitem__((0, 0, 0, 0), np.nan), "input.image holds values that are not finite"),
        (lambda t: t.update({name: tensor[:0].copy() for name, tensor in t.items()}), "logits of shape"),
        (lambda t: t.update({"logits.0": t["logits.0"].astype(np.float64)}), "logits of type float32"),
        (lambda t: t.update({"input.image": t["input.image"].astype(np.float64)}), r"is float64 \[32, 1, 12, 12\]"),
        (lambda t: t.update({"input.image": t["input.image"][:, :, 1:].copy()}), r"is float32 \[32, 1, 11, 12\]"),
        (lambda t: t.update({"input.image": np.array(1, dtype=np.float32)}), r"is float32 \[\]"),
    ],
)
def test_a_reference_that_does_not_fit(image_folder: Path, change: Any, problem: str) -> None:
    _reference(image_folder, change)
    with pytest.raises(ArtifactError, match=problem):
        read_reference(Artifact.open(image_folder))


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_padding_that_changes_the_logits(text_folder: Path, name: str) -> None:
    """Heads that average over the padding too are right at the length of the reference, and wrong at the next.

    The native engine has no average over tokens but the one that leaves the padding out, and says so.
    """

    def ignore_the_mask(model: ModelProto) -> None:
        cast = next(node for node in model.graph.node if node.op_type == "Cast")
        index = list(model.graph.node).index(cast)
        cast.input[0] = "everything"
        everything = helper.make_node("Equal", ["attention_mask", "attention_mask"], ["everything"])
        model.graph.node.insert(index, everything)

    for head in range(3):
        edit_graph(text_folder, f"head_{head}.onnx", ignore_the_mask)
    tensors = load_file(text_folder / "reference.safetensors")
    full = np.flatnonzero(tensors["input.attention_mask"].all(axis=1))
    assert len(full) >= 2
    kept = {key: np.ascontiguousarray(tensor[full]) for key, tensor in tensors.items()}
    replace_file(text_folder, "reference.safetensors", save(kept))
    problem = r"native engine does not support .*Equal" if name == "native" else rf"{name} .*{len(full)} rows of 32 tok"
    with pytest.raises(EngineError, match=problem):
        verify(str(text_folder), engine=[name], cores=CORES)


@pytest.mark.parametrize("tokens", [4, 8, 32])
def test_at_length(text_artifact: Artifact, tokens: int) -> None:
    inputs, _ = read_reference(text_artifact)
    cut, rows = at_length(text_artifact, inputs, tokens)
    counts = inputs["attention_mask"].sum(axis=1)
    assert rows.tolist() == [row for row in range(32) if counts[row] <= tokens]
    assert len(rows) > 0
    for position, row in enumerate(rows):
        words = inputs["input_ids"][row, : counts[row]].tolist()
        assert cut["input_ids"][position].tolist() == words + [0] * (tokens - len(words))
        assert cut["attention_mask"][position].tolist() == [1] * len(words) + [0] * (tokens - len(words))


def test_an_invalid_graph(image_folder: Path) -> None:
    def string_constant(model: ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))

    edit_graph(image_folder, "trunk.onnx", string_constant)
    with pytest.raises(ArtifactError, match=r"trunk\.onnx.*unsupported type"):
        verify(str(image_folder), engine=["onnxruntime"], cores=CORES)
