"""One ONNX file for a whole artifact: it gives what the predictor gives, without any of our code."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

import export.fused as fused
from export.errors import ExportMisused, ExportRefused
from export.export import export
from export.fused import fuse, write_fused
from neurotrails import main
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import AlreadyExists, ArtifactError
from runtime.files import atomic_write
from runtime.graph import dense_of, load_graph, sparse_constants
from runtime.manifest import Manifest
from runtime.parity import RELATIVE_TOLERANCE, compare
from runtime.predictor import Predictor
from runtime.preprocess import Batch
from runtime.verify import at_length, read_reference
from runtime.vote import Vote
from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact
from tests.engines import onnx_session
from tests.runtime.native.conftest import write_live
from tests.runtime.tampering import edit_graph, edit_manifest

MODELS = sorted(path.parent for path in Path("models").glob("*/manifest.json"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny-image"
    write_tiny_image_artifact(folder)
    return Artifact.open(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny-text"
    write_tiny_text_artifact(folder)
    return Artifact.open(folder)


@pytest.fixture(scope="module", params=["image", "text"])
def artifact(request: pytest.FixtureRequest) -> Artifact:
    chosen: Artifact = request.getfixturevalue(request.param)
    return chosen


def changed(artifact: Artifact, *, temperatures: tuple[float, ...], vote: Vote = "probabilities") -> Artifact:
    """The same graphs with another vote."""
    manifest = artifact.manifest
    calibration = manifest.calibration.model_copy(update={"temperatures": temperatures})
    return replace(artifact, manifest=manifest.model_copy(update={"calibration": calibration, "vote": vote}))


def run(model: onnx.ModelProto, inputs: Batch) -> dict[str, NDArray[np.float32]]:
    """All outputs of a fused graph, in plain ONNX Runtime."""
    session = onnx_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def some(inputs: Batch, rows: int) -> Batch:
    return {name: tensor[:rows] for name, tensor in inputs.items()}


def predicted(artifact: Artifact, inputs: Batch) -> NDArray[np.float64]:
    """The predictor's vote of all heads, [rows, classes]."""
    engine = load_engine(artifact, "onnxruntime", EngineOptions(cores=1))
    return np.stack([p.probabilities for p in Predictor(artifact, engine).predict_batch(inputs).predictions])


def require_same(artifact: Artifact, inputs: Batch, logits: list[NDArray[np.float32]]) -> None:
    """Require the predictor's vote and the given logits from the fused graph."""
    outputs = run(fuse(artifact), inputs)
    assert list(outputs) == ["probabilities", *(f"logits_{head}" for head in range(len(logits)))]
    probabilities = outputs.pop("probabilities")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, predicted(artifact, inputs), atol=RELATIVE_TOLERANCE, rtol=0)
    for found, reference in zip(outputs.values(), logits, strict=True):
        assert compare(reference, found).holds


@pytest.mark.parametrize("vote", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("rows", [1, 5, 32])
def test_it_gives_the_predictors_vote_and_pytorchs_logits(
    artifact: Artifact, vote: Vote, temperature: float, rows: int
) -> None:
    inputs, logits = read_reference(artifact)
    voting = changed(artifact, temperatures=(9.0, 0.1, temperature), vote=vote)
    require_same(voting, some(inputs, rows), [values[:rows] for values in logits])


@pytest.mark.parametrize("vote", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [0.7, 40.0])
def test_the_vote_is_the_formula_even_where_float32_has_no_such_probability(
    image: Artifact, vote: Vote, temperature: float
) -> None:
    """Against p^(1/T) in extended precision: inputs times 100 give logits that are hundreds apart."""
    inputs: Batch = {"image": 100 * read_reference(image)[0]["image"].astype(np.float32)}
    outputs = run(fuse(changed(image, temperatures=(1.0, 1.0, temperature), vote=vote)), inputs)
    logits = np.stack([outputs[f"logits_{head}"] for head in range(3)]).astype(np.longdouble)
    assert np.ptp(logits, axis=-1).max() > 100, "no probability is below what float32 can hold"
    if vote == "logits":
        logits = logits.mean(axis=0, keepdims=True)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    powered = (shifted / shifted.sum(axis=-1, keepdims=True)).mean(axis=0) ** (1 / np.longdouble(temperature))
    expected = (powered / powered.sum(axis=-1, keepdims=True)).astype(np.float64)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=RELATIVE_TOLERANCE, rtol=0)


def test_texts_of_every_length(text: Artifact) -> None:
    inputs, logits = read_reference(text)
    for tokens in (4, 8, 32):
        cut, rows = at_length(text, inputs, tokens)
        assert len(rows)
        require_same(text, cut, [values[rows] for values in logits])


@pytest.mark.parametrize("name", ["no_trunk", "wide_resnet", "text"])
def test_networks_that_training_knows(name: str, tmp_path: Path) -> None:
    live = write_live(name, tmp_path / name)
    assert (live.manifest.trunk is None) == (name == "no_trunk")
    require_same(live, *read_reference(live))


@pytest.mark.parametrize("write", [write_tiny_image_artifact, write_tiny_text_artifact])
def test_one_head(write: Callable[..., Manifest], tmp_path: Path) -> None:
    write(tmp_path / "one", heads=1)
    one = changed(Artifact.open(tmp_path / "one"), temperatures=(2.0,))
    require_same(one, *read_reference(one))


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_the_shipped_models_in_a_process_without_our_code(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "fused.onnx"
    assert main(["export", str(folder), "--fused", str(file)]) == 0
    artifact = Artifact.open(folder)
    inputs, logits = read_reference(artifact)
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = f"""
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(file)!r})
names = [output.name for output in session.get_outputs()]
outputs = session.run(names, dict(numpy.load({str(tmp_path / "inputs.npz")!r})))
numpy.savez({str(tmp_path / "outputs.npz")!r}, **dict(zip(names, outputs)))
assert not {{"runtime", "export", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    outputs = np.load(tmp_path / "outputs.npz")
    assert outputs.files == ["probabilities", "logits_0", "logits_1", "logits_2"]
    np.testing.assert_allclose(outputs["probabilities"], predicted(artifact, inputs), atol=RELATIVE_TOLERANCE, rtol=0)
    for head, reference in enumerate(logits):
        assert compare(reference, outputs[f"logits_{head}"]).holds


def test_the_file_is_standard_onnx_and_says_what_it_is(artifact: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "deeper" / "fused.onnx"
    voting = changed(artifact, temperatures=(1.0, 1.0, 1.25))
    assert write_fused(voting, file) == file.stat().st_size
    assert [path.name for path in file.parent.iterdir()] == ["fused.onnx"]
    onnx.checker.check_model(file.read_bytes(), full_check=True)
    model = onnx.load(str(file))
    manifest = artifact.manifest
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    shapes = {
        info.name: tuple(size.dim_param or size.dim_value for size in info.type.tensor_type.shape.dim)
        for info in (*model.graph.input, *model.graph.output)
    }
    answer = ("batch", len(manifest.labels))
    heads = {f"logits_{head}": answer for head in range(3)}
    assert shapes == {spec.name: spec.shape for spec in manifest.inputs} | {"probabilities": answer} | heads
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said.pop("labels")) == list(manifest.labels)
    assert json.loads(said.pop("preprocessing")) == manifest.preprocessing.model_dump(mode="json")
    assert said == {
        "artifact_sha256": artifact.sha256, "modality": manifest.modality, "name": manifest.name, "precision": "fp32",
        "temperature": "1.25", "version": "1", "vote": "probabilities",
    }  # fmt: skip


def test_every_sparse_weight_stays_sparse(artifact: Artifact) -> None:
    found = {name: dense_of(sparse) for name, sparse in sparse_constants(fuse(artifact))}
    expected: dict[str, NDArray[np.generic]] = {}
    for stage in artifact.manifest.stages:
        weights = sparse_constants(load_graph(artifact.path(stage.file)))
        expected |= {f"{stage.file.removesuffix('.onnx')}/{name}": dense_of(sparse) for name, sparse in weights}
    assert len(expected) == 4
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight)


def test_the_same_artifact_gives_the_same_bytes(artifact: Artifact, tmp_path: Path) -> None:
    write_fused(artifact, tmp_path / "one.onnx")
    write_fused(Artifact.open(artifact.folder), tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_a_file_is_never_overwritten(image: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "mine.onnx"
    file.write_text("mine")
    for write in (lambda: write_fused(image, file), lambda: atomic_write(file, b"theirs", replace=False)):
        with pytest.raises(AlreadyExists, match="never overwritten"):
            write()
        assert file.read_text() == "mine"
        assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_exported_when_the_file_exists(image_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.onnx"
    file.write_text("mine")
    with pytest.raises(AlreadyExists):
        export(str(image_run), str(tmp_path / "artifact"), fused=str(file))
    assert list(tmp_path.iterdir()) == [file]


def test_checkpoint_to_artifact_to_file_in_one_go(image_run: Path, tmp_path: Path) -> None:
    export(str(image_run), str(tmp_path / "artifact"), fused=str(tmp_path / "fused.onnx"), version="7")
    exported = Artifact.open(tmp_path / "artifact")
    inputs, _ = read_reference(exported)
    model = onnx.load(str(tmp_path / "fused.onnx"))
    assert {entry.key: entry.value for entry in model.metadata_props}["version"] == "7"
    np.testing.assert_allclose(
        run(model, inputs)["probabilities"], predicted(exported, inputs), atol=RELATIVE_TOLERANCE, rtol=0
    )


def _wrong_temperature(artifact: Artifact) -> onnx.ModelProto:
    return fuse(changed(artifact, temperatures=(1.0, 1.0, 1.1)))


def _wrong_order(artifact: Artifact) -> onnx.ModelProto:
    heads = artifact.manifest.heads[::-1]
    return fuse(replace(artifact, manifest=artifact.manifest.model_copy(update={"heads": heads})))


@pytest.mark.parametrize(
    ("fault", "problem"), [(_wrong_temperature, "the vote differs"), (_wrong_order, "head 0 differs")]
)
def test_a_graph_that_answers_otherwise_is_not_written(
    image: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Artifact], onnx.ModelProto],
    problem: str,
) -> None:
    monkeypatch.setattr(fused, "fuse", fault)
    with pytest.raises(ExportRefused, match=problem):
        write_fused(image, tmp_path / "fused.onnx")
    assert not list(tmp_path.iterdir())


def test_an_input_with_the_name_of_an_output_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "tensors"
    write_tiny_image_artifact(folder)

    def rename(model: ModelProto) -> None:
        model.graph.input[0].name = "probabilities"
        next(node for node in model.graph.node if node.op_type == "Conv").input[0] = "probabilities"

    def describe(document: dict[str, Any]) -> None:
        document.update(modality="tensor", preprocessing={"kind": "tensor"})
        document["inputs"][0]["name"] = document["trunk"]["inputs"][0] = "probabilities"

    edit_graph(folder, "trunk.onnx", rename)
    edit_manifest(folder, describe)
    with pytest.raises(ArtifactError, match="as one graph: the tensor 'probabilities' is defined twice"):
        fuse(Artifact.open(folder))


def test_an_artifact_stays_as_it_is(image: Artifact) -> None:
    before = sorted(image.folder.iterdir())
    with pytest.raises(ExportMisused, match="immutable"):
        export(str(image.folder), fused=str(image.folder / "fused.onnx"))
    assert sorted(image.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Say what to write from"),
        (["--fused", "out.onnx", "--name", "other", "--vote", "logits"], "--name --vote cannot change"),
    ],
)
def test_arguments_that_do_not_go_together(
    image: Artifact, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(image.folder), *arguments]) == 1
    assert problem in capsys.readouterr().err


def test_a_checkpoint_cannot_be_fused_by_itself(image_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        export(str(image_run), fused=str(tmp_path / "fused.onnx"))
