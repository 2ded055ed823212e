"""The page of an artifact: what it says, that it needs nothing else, and what it may overwrite."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.artifact import Artifact
from runtime.errors import AlreadyExists, InspectionError
from runtime.inspection import page
from runtime.inspection.contents import examine
from runtime.inspection.inspect import inspect
from runtime.manifest import Flips, KeptLayer, Quantization
from tests.artifacts import write_tiny_image_artifact
from tests.pages import Reader

MODELS = Path(__file__).parents[3] / "models"


def _page(artifact: Artifact) -> str:
    return page.render(examine(artifact)).decode()


@pytest.mark.parametrize("name", ["fashion-mnist", "newsgroups"])
def test_the_page_of_a_shipped_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = Artifact.open(MODELS / name)
    inspect(str(artifact.folder), html=str(tmp_path / "page.html"))
    html = (tmp_path / "page.html").read_text()
    assert f"{len(html.encode()):,} bytes" in capsys.readouterr().out
    reader = Reader(html)
    assert "script" not in reader.tags
    assert not re.search(r"https?:|@import|url\(", html)
    text = reader.text
    manifest = artifact.manifest
    assert manifest.description in text
    for label in manifest.labels:
        assert label in text
    for layer in examine(artifact).layers:
        assert layer.name in text
        assert f"{layer.bytes:,}" in text
        assert f"{layer.dense_macs:,}" in text
        assert f"{layer.effective_macs:,}" in text
    for metrics in manifest.evaluation:
        assert f"{metrics.accuracy:.2%}" in text
        assert all(f"{accuracy:.2%}" in text for accuracy in metrics.head_accuracy)
    for point in manifest.early_exit.points:
        assert f"{point.mean_heads:.3f}" in text
    for entry in manifest.files.values():
        assert entry.sha256 in text
    assert manifest.provenance.data_source in text
    assert html == _page(artifact)


@pytest.mark.parametrize("heads", [1, 3, 20])
def test_the_drawing_shows_every_branch(heads: int, tmp_path: Path) -> None:
    write_tiny_image_artifact(tmp_path / "artifact", heads=heads)
    inspection = examine(Artifact.open(tmp_path / "artifact"))
    drawing = str(page.describe(inspection).drawing)
    assert [f">head {index}<" in drawing for index in range(heads + 1)] == [True] * heads + [False]
    assert ">trunk<" in drawing
    assert drawing.count('class="branch"') == 1 + 2 * heads
    layers = re.findall(r'class="heat cell"[^>]*fill-opacity="([\d.]+)"', drawing)
    assert [float(opacity) ** 2 for opacity in layers] == pytest.approx(
        [layer.density for layer in inspection.layers], abs=2e-3
    )
    height = float(re.findall(r'viewBox="0 0 900 ([\d.]+)"', drawing)[0])
    edges = [
        float(top) + float(size) for top, size in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', drawing)
    ]
    assert max(edges) <= height


def test_without_a_trunk_the_input_feeds_the_heads(image_artifact: Artifact) -> None:
    inspection = examine(image_artifact)
    manifest = inspection.manifest.model_copy(update={"trunk": None, "features": ()})
    layers = tuple(layer for layer in inspection.layers if layer.stage != "trunk.onnx")
    alone = replace(inspection, manifest=manifest, stages=inspection.stages[1:], layers=layers)
    drawing = str(page.describe(alone).drawing)
    assert ">trunk<" not in drawing
    assert drawing.count('class="branch"') == 2 * 3
    Reader(page.render(alone).decode())


def test_sizes_of_what_the_network_is_compared_with(image_artifact: Artifact) -> None:
    trunk, head = 8 * 1 * 3 * 3, 8 * 8 * 3 * 3 + 5 * 8
    trunk_macs, head_macs = 144 * trunk, 144 * 8 * 8 * 3 * 3 + 5 * 8
    own, dense, separate, one = examine(image_artifact).sizes
    assert own.weight_bytes == 12 * 36 + 3 * (12 * 144 + 4 * 40)
    assert own.macs == 144 * 36 + 3 * (144 * 144 + 40)
    assert (dense.weight_bytes, dense.macs) == (4 * (trunk + 3 * head), trunk_macs + 3 * head_macs)
    assert (separate.weight_bytes, separate.macs) == (12 * (trunk + head), 3 * (trunk_macs + head_macs))
    assert (one.weight_bytes, one.macs) == (4 * (trunk + head), trunk_macs + head_macs)


def test_names_are_escaped(image_artifact: Artifact) -> None:
    hostile = "<script>alert(1)</script>&\"'"
    inspection = examine(image_artifact)
    manifest = inspection.manifest.model_copy(update={"labels": (hostile, "b"), "description": hostile})
    layers = (replace(inspection.layers[0], name=hostile), *inspection.layers[1:])
    reader = Reader(page.render(replace(inspection, manifest=manifest, layers=layers)).decode())
    assert "script" not in reader.tags
    assert reader.text.count(hostile) >= 3


def test_quantization_is_shown_where_the_manifest_has_it(image_artifact: Artifact) -> None:
    inspection = examine(image_artifact)
    assert "Quantization" not in Reader(page.render(inspection).decode()).text
    told = Quantization(
        method="minmax",
        split="calibrate",
        rows=1128,
        layers=7,
        kept=(KeptLayer(stage="trunk.onnx", name="stem<b>", reason="it was chosen by hand"),),
        measured_split="report",
        measured_rows=256,
        head_flips=tuple(Flips(flips=rows, share=rows / 256, low=0.01, high=0.25) for rows in (7, 8, 9)),
        vote_flips=Flips(flips=6, share=0.0234, low=0.0108, high=0.0503),
        accuracy_change=-0.0123,
        accuracy_change_low=-0.021,
        accuracy_change_high=0.0004,
        loss_accepted=True,
    )
    manifest = inspection.manifest.model_copy(update={"quantization": told})
    text = "\n".join(Reader(page.render(replace(inspection, manifest=manifest)).decode()).text)
    for said in (
        "(256 rows of split report): accuracy -1.23 points (-2.10 to +0.04), a loss that was accepted",
        "vote 2.34% (1.08% to 5.03%); heads 2.73% (1.00% to 25.00%), 3.12% (1.00% to 25.00%), 3.52%",
        "7 layers in int8, 1 in fp32; ranges (minmax) from 1,128 rows of split calibrate",
        "in fp32: trunk.onnx stem<b>: it was chosen by hand",
    ):
        assert said in text


def test_only_its_own_pages_are_replaced(image_artifact: Artifact, tmp_path: Path) -> None:
    folder = str(image_artifact.folder)
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><title>precious</title>")
    with pytest.raises(AlreadyExists, match=r"page\.html exists and is not a page"):
        inspect(folder, html=str(file))
    assert "precious" in file.read_text()
    file.unlink()
    inspect(folder, html=str(file))
    first = file.read_bytes()
    file.write_bytes(first + b"<!-- stale -->")
    inspect(folder, html=str(file))
    assert file.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written(image_artifact: Artifact, tmp_path: Path) -> None:
    folder = str(image_artifact.folder)
    before = sorted(path.name for path in image_artifact.folder.iterdir())
    with pytest.raises(InspectionError, match="immutable"):
        inspect(folder, html=str(image_artifact.folder / "page.html"))
    assert sorted(path.name for path in image_artifact.folder.iterdir()) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InspectionError, match="--html"):
        inspect(folder, html=str(tmp_path / "file" / "page.html"))
    with pytest.raises(AlreadyExists):
        inspect(folder, html=str(tmp_path))
    with pytest.raises(InspectionError, match="leave out --json"):
        inspect(folder, html="page.html", json=True)
