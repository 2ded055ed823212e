"""Export: what is written is what was trained, or nothing is written."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.checkpoint import reorder_heads
from export.errors import ExportRefused
from export.export import export
from export.graphs import SPARSE_BELOW, Weight, fold_norms, make_sparse, trace, transpose_weights
from export.stages import Example, export_stages
from runtime.artifact import Artifact
from runtime.errors import AlreadyExists
from runtime.graph import dense_of, load_graph, sparse_constants, stored_weights
from runtime.inspection.contents import examine
from runtime.inspection.listing import render
from runtime.manifest import TensorSpec
from runtime.verify import verify
from tests.engines import onnx_session
from training.batches import Batches
from training.calibration import calibrate, early_exit_curve
from training.checkpoint import Checkpoint, best_of_run
from training.evaluate import collect_logits
from training.models.multihead import MultiHeadNetwork
from training.models.resnet import resnet_parts
from training.models.wide_resnet import wide_resnet_parts
from training.preparation import held_out_parts
from training.sparsity.masks import Masks
from training.train import train


@pytest.fixture(scope="session", params=["image", "text"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Artifact]:
    """A tiny run and its artifact."""
    run: Path = request.getfixturevalue(f"{request.param}_run")
    folder = tmp_path_factory.mktemp("exports") / request.param
    export(str(run), str(folder), description="A test.")
    return Checkpoint.open(run), Artifact.open(folder)


def file_weights(artifact: Artifact) -> dict[tuple[str, str], NDArray[np.generic]]:
    """All weights of all graphs as dense arrays, by (file, name)."""
    weights: dict[tuple[str, str], NDArray[np.generic]] = {}
    for stage in artifact.manifest.stages:
        model = load_graph(artifact.path(stage.file))
        weights |= {(stage.file, t.name): numpy_helper.to_array(t) for t in model.graph.initializer}
        weights |= {(stage.file, name): dense_of(sparse) for name, sparse in sparse_constants(model)}
    return weights


def stage_of(file: str, artifact: Artifact) -> str:
    """The checkpoint's name of the stage that lies in a file: heads are exported in voting order."""
    stage = file.removesuffix(".onnx")
    if stage == "trunk":
        return stage
    return f"heads.{artifact.manifest.calibration.order[int(stage.removeprefix('head_'))]}"


def test_counts_in_the_files_equal_manifest_and_masks(exported: tuple[Checkpoint, Artifact]) -> None:
    checkpoint, artifact = exported
    network, masks = checkpoint.network()
    sparsity = artifact.manifest.sparsity
    weights = file_weights(artifact)
    for layer in sparsity.layers:
        array = weights[layer.stage, layer.name]
        assert (array.size, np.count_nonzero(array), array.shape) == (layer.weights, layer.nonzero, layer.shape)
        name = f"{stage_of(layer.stage, artifact)}.{layer.name}"
        weight = network.get_parameter(name)
        mask = masks.get(name, torch.ones_like(weight, dtype=torch.bool))
        assert layer.kept == int(mask.sum())
        assert layer.masked == (name in masks)
    assert sparsity.kept == round(checkpoint.description.config.sparsity.density * sparsity.weights)


def test_a_sparse_constant_is_used_exactly_below_the_break_even(exported: tuple[Checkpoint, Artifact]) -> None:
    _, artifact = exported
    forms = []
    for stage in artifact.manifest.stages:
        stored = stored_weights(load_graph(artifact.path(stage.file)))
        for layer in artifact.manifest.sparsity.layers:
            if layer.stage == stage.file:
                assert stored[layer.name].sparse == (layer.kept / layer.weights < SPARSE_BELOW)
                forms.append(stored[layer.name].sparse)
    assert any(forms)


def test_norms_are_folded_only_behind_a_convolution(exported: tuple[Checkpoint, Artifact]) -> None:
    _, artifact = exported
    stays = artifact.manifest.modality == "image"  # pre-activation norms stay; the text encoder has none
    for stage in artifact.manifest.stages:
        graph = load_graph(artifact.path(stage.file)).graph
        producers = {name: node.op_type for node in graph.node for name in node.output}
        norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
        assert bool(norms) == stays
        assert all(producers.get(norm.input[0]) != "Conv" or stage.file == "trunk.onnx" for norm in norms)


def test_the_reference_is_what_pytorch_computes(exported: tuple[Checkpoint, Artifact]) -> None:
    checkpoint, artifact = exported
    network, _ = checkpoint.network()
    reference = artifact.reference()
    inputs = [torch.from_numpy(reference[f"input.{spec.name}"]) for spec in artifact.manifest.inputs]
    with torch.inference_mode():
        logits = network(*inputs).numpy()
    assert logits.shape[:2] == (len(artifact.manifest.heads), 32)
    for place, head in enumerate(artifact.manifest.calibration.order):
        np.testing.assert_array_equal(reference[f"logits.{place}"], logits[head])


def test_manifest_says_what_was_measured(exported: tuple[Checkpoint, Artifact]) -> None:
    checkpoint, artifact = exported
    manifest = artifact.manifest
    assert manifest.description == "A test."
    assert [metrics.split for metrics in manifest.evaluation] == ["report"]
    assert manifest.calibration.split == "calibrate"
    assert manifest.early_exit.split == "report"
    assert manifest.provenance.config_sha256 == checkpoint.description.config.sha256
    assert manifest.provenance.command.startswith("neurotrails train ")
    assert set(manifest.files) | {"manifest.json"} == {path.name for path in artifact.folder.iterdir()}


def test_the_same_run_gives_the_same_bytes(exported: tuple[Checkpoint, Artifact], tmp_path: Path) -> None:
    checkpoint, artifact = exported
    export(str(checkpoint.folder), str(tmp_path / "again"), description="A test.")
    assert Artifact.open(tmp_path / "again").sha256 == artifact.sha256


def test_an_existing_artifact_is_never_overwritten(exported: tuple[Checkpoint, Artifact]) -> None:
    checkpoint, artifact = exported
    with pytest.raises(AlreadyExists, match="never overwritten"):
        export(str(checkpoint.folder), str(artifact.folder))
    assert Artifact.open(artifact.folder).sha256 == artifact.sha256


def test_heads_are_exported_in_the_order_chosen_on_the_calibrate_part(
    exported: tuple[Checkpoint, Artifact],
) -> None:
    checkpoint, artifact = exported
    network, _ = checkpoint.network()
    parts, preprocessor = held_out_parts(checkpoint)
    logits = {part: collect_logits(network, Batches(parts[part], preprocessor, 64)) for part in ("calibrate", "report")}
    expected = calibrate(logits["calibrate"], parts["calibrate"].targets, split="calibrate")
    manifest = artifact.manifest
    assert manifest.calibration == expected
    assert manifest.early_exit == early_exit_curve(
        logits["report"], parts["report"].targets, expected, split="report"
    )  # fmt: skip
    right = (logits["report"].argmax(axis=-1) == parts["report"].targets).mean(axis=1)
    assert manifest.evaluation[0].head_accuracy == tuple(right[list(expected.order)])
    told = [line for line in render(examine(artifact)) if "heads in voting order" in line]
    assert told[0].endswith(": " + ", ".join(map(str, expected.order)))


def test_reordered_heads_take_their_masks_along(text_run: Path) -> None:
    network, masks = Checkpoint.open(text_run).network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    moved = reorder_heads(network, masks, [1, 0])
    assert moved.keys() == masks.keys()
    for name, tensor in network.state_dict().items():
        swapped = name.replace("heads.0.", "heads.x.").replace("heads.1.", "heads.0.").replace("heads.x.", "heads.1.")
        assert torch.equal(tensor, before[swapped])
        if name in masks:
            assert torch.equal(moved[name], masks[swapped])
            assert not tensor[~moved[name]].any()


@pytest.mark.parametrize(
    ("overrides", "heads", "trunk"),
    [(("ensemble.heads=1",), 1, True), (("ensemble.heads=4", "ensemble.blocks_in_head=3"), 4, False)],
)
def test_one_head_and_heads_without_a_trunk_are_exported_and_verified(
    overrides: tuple[str, ...], heads: int, trunk: bool, image_recipe: Path, tmp_path: Path
) -> None:
    train(str(image_recipe), *overrides, "epochs=1", run=str(tmp_path / "run"))
    export(str(tmp_path / "run"), str(tmp_path / "artifact"))
    manifest = Artifact.open(tmp_path / "artifact").manifest
    assert (manifest.trunk is not None, len(manifest.heads)) == (trunk, heads)
    assert sorted(manifest.calibration.order) == list(range(heads))
    assert len(manifest.calibration.temperatures) == heads
    assert (manifest.evaluation[0].disagreement is None) == (heads == 1)
    verify(str(tmp_path / "artifact"), engine=["onnxruntime"], cores=1)


def test_a_nonzero_outside_the_masks_is_refused(image_run: Path) -> None:
    checkpoint = Checkpoint.open(image_run)
    network, masks = checkpoint.network()
    name = next(iter(masks))
    with torch.no_grad():
        weight = network.get_parameter(name)
        weight[~masks[name]] += 0.01
    spec = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 12, 12))
    with pytest.raises(ExportRefused, match="outside its mask"):
        export_stages(network, masks, Example((torch.randn(2, 3, 12, 12),), (spec,)), embeddings=False)


def test_lost_parity_writes_nothing(image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault on purpose: a folded norm that is a little off must stop the export."""
    import export.stages as stages

    def fold_badly(model: onnx.ModelProto) -> int:
        count = fold_norms(model)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("linear.weight"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
        return count

    monkeypatch.setattr(stages, "fold_norms", fold_badly)
    with pytest.raises(ExportRefused, match="differs from PyTorch"):
        export(str(image_run), str(tmp_path / "artifact"))
    assert not list(tmp_path.iterdir())


def test_changed_data_is_refused(text_run: Path, tmp_path: Path) -> None:
    import json

    copy = tmp_path / "checkpoint"
    shutil.copytree(best_of_run(text_run), copy)
    config = json.loads((copy / "config.json").read_text())
    config["data_sha256"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(config))
    from training.errors import CheckpointError

    with pytest.raises(CheckpointError, match="data has changed"):
        export(str(copy), str(tmp_path / "artifact"))


@pytest.mark.parametrize(("kind", "blocks_in_head"), [("wrn", 0), ("wrn", 3), ("resnet", 2)])
def test_any_split_gives_pytorchs_logits(kind: str, blocks_in_head: int) -> None:
    """Classifier-only heads, no trunk, and bottlenecks whose norms all fold; with live batch statistics."""
    torch.manual_seed(0)
    network = MultiHeadNetwork(
        (lambda: wide_resnet_parts(10, 1, classes=4))
        if kind == "wrn"
        else (lambda: resnet_parts(50, stem="imagenet", classes=4)),
        heads=2,
        blocks_in_head=blocks_in_head,
    )
    masks = Masks.erk(network, 0.3, embeddings=False, generator=torch.Generator().manual_seed(0)).masks
    network.train()
    images = torch.randn(4, 3, 32, 32)
    network(images)
    network.eval()
    spec = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 32, 32))
    stages, features = export_stages(network, masks, Example((images,), (spec,)), embeddings=False)
    assert bool(features) == (blocks_in_head < 3)
    tensors = {"image": images.numpy()}
    outputs = []
    for exported_stage in stages:
        session = onnx_session(exported_stage.model)
        feed = {name: tensors[name] for name in exported_stage.stage.inputs}
        [out] = session.run(None, feed)
        if exported_stage.stage.file == "trunk.onnx":
            tensors["features"] = out
        else:
            outputs.append(out)
    with torch.inference_mode():
        expected = network(images).numpy()
    np.testing.assert_allclose(np.stack(outputs), expected, rtol=1e-4, atol=1e-4)
    if kind == "resnet":
        assert not [n for s in stages for n in s.model.graph.node if n.op_type == "BatchNormalization"]


def test_macs_are_counted_by_hand() -> None:
    network = MultiHeadNetwork(lambda: wide_resnet_parts(10, 1, classes=4), heads=1, blocks_in_head=0).eval()
    masks = Masks.erk(network, 0.5, embeddings=False, generator=torch.Generator().manual_seed(0))
    spec = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 8, 8))
    [trunk, head], _ = export_stages(
        network, masks.masks, Example((torch.randn(2, 3, 8, 8),), (spec,)), embeddings=False
    )
    uses = {"trunk.stem": 64, "trunk.blocks.0": 64, "trunk.blocks.1": 16, "trunk.blocks.2": 4}
    sizes = {name: weight.numel() for name, weight in masks.weights.items()}
    kept = masks.kept()

    def total(counts: dict[str, int]) -> int:
        return sum(n * next(u for p, u in uses.items() if name.startswith(p))
                   for name, n in counts.items() if name.startswith("trunk"))  # fmt: skip

    assert (trunk.stage.dense_macs, trunk.stage.effective_macs) == (total(sizes), total(kept))
    assert head.stage.dense_macs == 64 * 4
    assert trunk.stage.activation_macs == 0


def test_attention_products_are_counted(text_run: Path) -> None:
    network, masks = Checkpoint.open(text_run).network()
    specs = tuple(TensorSpec(name=n, dtype="int64", shape=("batch", "tokens")) for n in ("input_ids", "attention_mask"))
    ids = torch.ones(2, 16, dtype=torch.int64)
    [trunk, *_], _ = export_stages(network, masks, Example((ids, ids), specs), embeddings=True)
    assert trunk.stage.activation_macs == 2 * 16 * 16 * 16  # scores and values, 16 tokens, width 16


def test_active_weights_that_are_zero_stay_listed() -> None:
    layer = torch.nn.Conv2d(1, 4, 3, bias=False)
    mask = torch.zeros(4, 1, 3, 3, dtype=torch.bool)
    mask[:, 0, 0, 0] = True
    with torch.no_grad():
        layer.weight.mul_(mask)
        layer.weight[0, 0, 0, 0] = 0.0
    model = trace(layer, [torch.ones(1, 1, 5, 5)], ["x"], ["y"], {})
    make_sparse(model, [Weight("weight", mask.numpy())])
    stored = stored_weights(model)["weight"]
    assert (stored.entries, stored.nonzero, stored.sparse) == (4, 3, True)
    onnx.checker.check_model(model, full_check=True)


def test_transposed_weights_keep_their_values() -> None:
    layer = torch.nn.Linear(3, 5)
    x = torch.randn(2, 4, 3)
    model = trace(layer, [x], ["x"], ["y"], {})
    assert transpose_weights(model) == {"weight": (1, 0)}
    assert not [node for node in model.graph.node if node.op_type == "Transpose"]
    [out] = onnx_session(model).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(out, layer(x).detach().numpy(), rtol=1e-5, atol=1e-6)
