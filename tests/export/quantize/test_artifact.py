"""int8 artifacts of tiny trained networks: near fp32, alike in every engine, calibrated anew, or refused."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import export.quantize.artifact as quantize_artifact
from export.errors import ExportMisused, ExportRefused
from export.export import export
from export.quantize.execution import GraphRunner, Graphs
from export.quantize.qdq import SPARSE_BELOW, quantizable
from export.quantize.ranges import Range
from export.quantize.report import compare_logits
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import UnsupportedModel
from runtime.graph import dense_of, load_graph, sparse_constants, stored_weights
from runtime.inspection.contents import examine
from runtime.inspection.listing import render
from runtime.verify import read_reference, verify
from tests.engines import ENGINE_NAMES
from training.batches import Batches
from training.calibration import calibrate, early_exit_curve
from training.checkpoint import Checkpoint
from training.preparation import held_out_parts


@pytest.fixture(scope="session", params=["image", "text"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact, Artifact]:
    """A tiny run, its fp32 artifact and its int8 artifact."""
    run: Path = request.getfixturevalue(f"{request.param}_run")
    folder = tmp_path_factory.mktemp("precisions")
    export(str(run), str(folder / "fp32"))
    export(str(run), str(folder / "int8"), precision="int8", accept_loss=True)
    return run, Artifact.open(folder / "fp32"), Artifact.open(folder / "int8")


def files_of(fp32: Artifact, int8: Artifact) -> dict[str, str]:
    """File of each stage in int8 -> in fp32: heads may have changed their order."""
    before, after = fp32.manifest.calibration.voting_order, int8.manifest.calibration.voting_order
    return {"trunk.onnx": "trunk.onnx"} | {
        f"head_{i}.onnx": f"head_{before.index(o)}.onnx" for i, o in enumerate(after)
    }


def test_verify_passes_in_every_engine_that_offers_int8(
    pair: tuple[Path, Artifact, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, int8 = pair
    verify(str(int8.folder), cores=1)
    told = capsys.readouterr().out
    for name in set(ENGINE_NAMES) - {"native"}:
        assert f"ok    {name} " in told


def test_native_says_that_it_cannot(pair: tuple[Path, Artifact, Artifact]) -> None:
    with pytest.raises(UnsupportedModel, match="int8"):
        load_engine(pair[2], "native", EngineOptions(cores=1))


def test_zeros_are_kept_and_counted(pair: tuple[Path, Artifact, Artifact]) -> None:
    _, fp32, int8 = pair
    files, found = files_of(fp32, int8), 0
    layers = {(layer.stage, layer.name): layer for layer in fp32.manifest.sparsity.layers}
    kept = {(layer.stage, layer.name) for layer in int8.manifest.quantization.kept}  # type: ignore[union-attr]
    for layer in int8.manifest.sparsity.layers:
        before = layers[files[layer.stage], layer.name]
        assert (layer.kept, layer.weights, layer.masked) == (before.kept, before.weights, before.masked)
        stored = stored_weights(load_graph(int8.path(layer.stage)))[layer.name]
        assert stored.nonzero == layer.nonzero <= layer.kept
        if (layer.stage, layer.name) in kept:
            continue
        found += 1
        assert stored.sparse == (layer.kept / layer.weights < SPARSE_BELOW)
        old, new = (weight_of(a, f, layer.name) for a, f in ((fp32, before.stage), (int8, layer.stage)))
        assert new.dtype == np.int8
        assert not new[old == 0].any()
    assert found == int8.manifest.quantization.layers  # type: ignore[union-attr]


def weight_of(artifact: Artifact, file: str, name: str) -> NDArray[Any]:
    model = load_graph(artifact.path(file))
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {**arrays, **{key: dense_of(sparse) for key, sparse in sparse_constants(model)}}[name]


def test_all_weights_are_quantized_embeddings_too(
    pair: tuple[Path, Artifact, Artifact],
) -> None:
    _, fp32, int8 = pair
    told = int8.manifest.quantization
    assert told is not None
    assert told.layers == sum(len(quantizable(graph.model)) for graph in Graphs.of(fp32).stages)
    assert not told.kept
    if int8.manifest.modality == "text":
        assert weight_of(int8, "trunk.onnx", "stem.tokens.weight").dtype == np.int8


def test_what_the_manifest_says_is_what_the_int8_graphs_give(pair: tuple[Path, Artifact, Artifact]) -> None:
    """Calibration, exits, flips and metrics, computed again from the files."""
    run, fp32, int8 = pair
    parts, preprocessor = held_out_parts(Checkpoint.open(run))
    names = [spec.name for spec in int8.manifest.inputs]
    logits = {}
    for artifact in (fp32, int8):
        runner = GraphRunner(Graphs.of(artifact), cores=1)
        for part in ("calibrate", "report"):
            batches = Batches(parts[part], preprocessor, 32).in_order()
            feeds = ({n: t.numpy() for n, t in zip(names, batch.inputs, strict=True)} for batch in batches)
            logits[artifact.manifest.precision, part] = runner.collect(feeds)
    manifest, order = int8.manifest, int8.manifest.calibration.voting_order
    as_trained = np.argsort(order)
    again = calibrate(logits["int8", "calibrate"], parts["calibrate"].targets, split="calibrate")
    assert again.voting_order == tuple(range(len(order)))  # the files are in the order that their logits ask for
    assert manifest.calibration.temperatures == pytest.approx(again.temperatures, rel=1e-6)
    targets = parts["report"].targets
    assert manifest.early_exit == early_exit_curve(
        logits["int8", "report"], targets, manifest.calibration.model_copy(update={"order": ()}), split="report"
    )
    before = logits["fp32", "report"][np.argsort(fp32.manifest.calibration.voting_order)]
    comparison = compare_logits(before, logits["int8", "report"][as_trained], targets, vote="probabilities")
    told = manifest.quantization
    assert told is not None
    assert told.head_flips == tuple(comparison.head_flips[index] for index in order)
    assert told.vote_flips == comparison.vote_flips
    assert told.accuracy_change == comparison.accuracy.estimate
    assert (told.measured_split, told.measured_rows) == ("report", len(targets))
    assert told.vote_flips.share <= 0.05
    assert (manifest.precision, manifest.version) == ("int8", "1-int8")


def test_inspect_tells_what_int8_changed(pair: tuple[Path, Artifact, Artifact]) -> None:
    _, fp32, int8 = pair
    told = int8.manifest.quantization
    assert told is not None
    lines = "\n".join(render(examine(int8)))
    assert f"accuracy {100 * told.accuracy_change:+.2f} points" in lines
    assert f"changed: vote {told.vote_flips.share:.2%} (" in lines
    assert f"{told.layers} layers in int8, {len(told.kept)} in fp32" in lines
    assert all(f"in fp32: {layer.stage} {layer.name}: " in lines for layer in told.kept)
    assert "int8" not in "\n".join(render(examine(fp32)))


def test_the_same_run_gives_the_same_bytes(pair: tuple[Path, Artifact, Artifact], tmp_path: Path) -> None:
    run, _, int8 = pair
    export(str(run), str(tmp_path / "again"), precision="int8", accept_loss=True)
    assert Artifact.open(tmp_path / "again").sha256 == int8.sha256


def test_the_reference_holds_pytorchs_logits_and_those_of_the_graphs(pair: tuple[Path, Artifact, Artifact]) -> None:
    _, fp32, int8 = pair
    inputs, logits = read_reference(int8)
    np.testing.assert_array_equal(
        np.stack(logits), GraphRunner(Graphs.of(int8), cores=1, optimized=False).logits(inputs)
    )
    stored, original = int8.reference(), fp32.reference()
    for file, before in files_of(fp32, int8).items():
        if file != "trunk.onnx":
            here, there = (f"logits.{name.removeprefix('head_').removesuffix('.onnx')}" for name in (file, before))
            np.testing.assert_array_equal(stored[here], original[there])


def test_an_int8_artifact_is_fused(pair: tuple[Path, Artifact, Artifact], tmp_path: Path) -> None:
    export(str(pair[2].folder), fused=str(tmp_path / "fused.onnx"))
    assert (tmp_path / "fused.onnx").exists()


def too_narrow(graphs: Graphs, watched: Mapping[str, tuple[str, ...]], *rest: object, **options: object) -> object:
    """A fault on purpose: ranges that clip nearly everything."""
    del graphs, rest, options
    return {file: {name: Range(-0.001, 0.001) for name in names} for file, names in watched.items()}


def test_a_loss_is_refused_and_written_only_when_accepted(
    image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize_artifact, "collect_ranges", too_narrow)
    monkeypatch.setattr(quantize_artifact, "measure_sensitivity", lambda *_, **__: [])  # nothing may stay fp32
    with pytest.raises(ExportRefused, match=r"loses accuracy in int8: -\d+.*--accept-loss"):
        export(str(image_run), str(tmp_path / "refused"), precision="int8")
    assert not list(tmp_path.iterdir())
    export(str(image_run), str(tmp_path / "accepted"), precision="int8", accept_loss=True)
    told = Artifact.open(tmp_path / "accepted").manifest.quantization
    assert told is not None
    assert told.loss_accepted
    assert told.accuracy_change_high < 0


def test_layers_that_accuracy_needs_stay_fp32(
    image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quantize_artifact, "collect_ranges", too_narrow)
    export(str(image_run), str(tmp_path / "int8"), precision="int8", accept_loss=True)
    assert "Accuracy on calibrate with 1 layers in fp32" in capsys.readouterr().err
    artifact = Artifact.open(tmp_path / "int8")
    told = artifact.manifest.quantization
    assert told is not None
    assert told.kept
    for layer in told.kept:
        assert re.match(r"accuracy: quantized alone it moves the logits by \d+", layer.reason)
        assert weight_of(artifact, layer.stage, layer.name).dtype == np.float32


def test_accepting_a_loss_is_about_int8(tmp_path: Path) -> None:
    with pytest.raises(ExportMisused, match="--accept-loss"):
        export("somewhere", str(tmp_path / "new"), accept_loss=True)
