import json

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from runtime.artifact import Artifact
from runtime.inspection.contents import examine
from runtime.inspection.inspect import inspect


def _stored(artifact: Artifact, file: str) -> dict[str, tuple[int, int, str]]:
    """Name -> values in the file, values that are not zero, form; read without `runtime.graph`."""
    model = ModelProto()
    model.ParseFromString(artifact.path(file).read_bytes())
    found = {}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "sparse_value":
                values = numpy_helper.to_array(attribute.sparse_tensor.values)
                found[node.output[0]] = (values.size, int(np.count_nonzero(values)), "sparse")
            elif attribute.name == "value":
                values = numpy_helper.to_array(attribute.t)
                found[node.output[0]] = (values.size, int(np.count_nonzero(values)), "dense")
    return found


def test_layers_are_what_lies_in_the_files(artifact: Artifact) -> None:
    inspection = examine(artifact)
    assert inspection.layers
    for layer in inspection.layers:
        assert _stored(artifact, layer.stage)[layer.name] == (layer.kept, layer.nonzero, layer.form)
        values, _, form = _stored(artifact, layer.stage)[layer.name]
        assert layer.bytes == values * (12 if form == "sparse" else 4)
        assert layer.dense_bytes == 4 * layer.weights
        assert layer.density == layer.kept / np.prod(layer.shape)
    assert (
        inspection.bytes
        == sum(path.stat().st_size for path in artifact.folder.iterdir())
        - (artifact.folder / "manifest.json").stat().st_size
    )
    assert inspection.graph_bytes == sum(path.stat().st_size for path in artifact.folder.glob("*.onnx"))


def test_dense_size(image_artifact: Artifact) -> None:
    weights = 8 * 1 * 3 * 3 + 3 * (8 * 8 * 3 * 3 + 5 * 8)
    assert examine(image_artifact).dense_weight_bytes == 4 * weights


def test_table(image_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(image_artifact.folder))
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == f"tiny-image version 1 (schema 1), sha256 {image_artifact.sha256}"
    assert "labels 5: circle, square, triangle, star, cross" in lines
    assert "input image float32 [batch, 1, 12, 12]" in lines
    assert "weight head_1.onnx 8x8x3x3 0.2500 144 144 sparse 1,728 2,304 82,944 20,736" in lines
    assert "classifier head_1.onnx 5x8 1.0000 40 40 dense 160 160 40 40" in lines
    assert any(line.startswith("total 1,920 0.3063 588 588 6,096 7,680 259,320 67,512") for line in lines)
    size = (image_artifact.folder / "trunk.onnx").stat().st_size
    assert f"trunk.onnx {size:,} 10,368 5,184 0" in lines
    assert "temperatures for 1 to 3 heads: 1.0000, 1.0000, 1.0000 (0 rows of split none)" in lines


def test_json(text_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(text_artifact.folder), json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"] == json.loads((text_artifact.folder / "manifest.json").read_text())
    assert document["sha256"] == text_artifact.sha256
    assert document["density"] == pytest.approx(text_artifact.manifest.sparsity.density)
    assert [layer["form"] for layer in document["layers"]] == ["sparse"] * 4
