"""docs/artifact.md says what the code does: fields, numbers, the reference inputs, and the reader that it shows."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from export import artifact as exported
from export import graphs
from runtime import graph, manifest_schema, parity, preprocess
from runtime.artifact import MAX_MANIFEST_BYTES, MAX_REFERENCE_BYTES, Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.manifest import LARGEST, MAX_ROW_ELEMENTS, ImagePreprocessing, TextPreprocessing
from runtime.predictor import Predictor
from runtime.tokenizer_file import MAX_TOKENIZER_BYTES
from runtime.verify import MAX_REFERENCE_ROWS
from training.calibration import EXIT_CONFIDENCES

DOCS = Path("docs/artifact.md").read_text(encoding="utf-8")
FLAT = " ".join(DOCS.split())
SCHEMA = manifest_schema.manifest_schema()
MODELS = {"Manifest": SCHEMA, **SCHEMA["$defs"]}
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", DOCS, re.MULTILINE | re.DOTALL))
[PYTHON] = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
BOUNDS_OF_TYPES = {"maximum": (1, LARGEST)}
"""Bounds that a table does not repeat: those of a fraction and of a count."""
SHIPPED = ("fashion-mnist", "newsgroups")


def rows_of(section: str) -> dict[str, str]:
    """Field -> type, from the table of a section."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))


@pytest.mark.parametrize("model", MODELS)
def test_every_field_of_every_model_has_its_row(model: str) -> None:
    schema = MODELS[model]
    rows = rows_of(SECTIONS[model])
    assert list(rows) == list(schema["properties"])
    required = {*schema.get("required", ()), "kind"}
    for field, described in rows.items():
        properties = schema["properties"][field]
        assert ("default" in described) == (field not in required), field
        if field not in required:
            assert f"default `{json.dumps(properties['default'])}`" in described.replace("default 0", "default `0`")
        for value in properties.get("enum", ()):
            assert f'"{value}"' in described, field
        for bound in ("maximum", "maxItems", "maxLength"):
            if bound in properties and properties[bound] not in BOUNDS_OF_TYPES.get(bound, ()):
                assert str(properties[bound]) in described, field


def test_the_bounds_of_items_are_named() -> None:
    assert "from 0 to 2^63 - 1" in FLAT
    assert LARGEST == 2**63 - 1
    assert f"at most 2^{MAX_ROW_ELEMENTS.bit_length() - 1} values" in FLAT
    assert "array of integer, 1 to 65536, at least 1" in rows_of(SECTIONS["TextPreprocessing"])["lengths"]
    assert MODELS["TextPreprocessing"]["properties"]["lengths"]["items"]["maximum"] == 65536
    assert f"`{MODELS['Manifest']['properties']['name']['pattern']}`" in DOCS


def test_every_model_has_its_section() -> None:
    assert set(MODELS) <= set(SECTIONS)


def test_limits_and_constants_are_those_of_the_code() -> None:
    for said in (
        f"at most {MAX_MANIFEST_BYTES >> 20} MiB",
        f"at most {graph.MAX_GRAPH_BYTES:,} bytes",
        f"at most {graph.FREE_DENSE_BYTES >> 20} MiB and {graph.MAX_EXPANSION} bytes for each byte of the file",
        f"library, of at most {MAX_TOKENIZER_BYTES >> 20} MiB",
        f"safetensors file of at most {MAX_REFERENCE_BYTES >> 30} GiB",
        f"in all, 1 to {MAX_REFERENCE_ROWS}",
        f"at most {graph.MAX_DENSE_BYTES >> 30} GiB",
        f"(the empty string), version {graph.OPSET}",
        f"`ir_version` {graphs.IR_VERSION}",
        f"limit of this project is {preprocess.MAX_PIXELS:,} pixels",
        f"Formats {', '.join(preprocess.IMAGE_FORMATS[:-1])} and {preprocess.IMAGE_FORMATS[-1]};",
        f"`default_rng({exported.REFERENCE_SEED})`",
        f"writes {exported.REFERENCE_ROWS} synthetic rows",
        f"allowed = {parity.RELATIVE_TOLERANCE:.4f} * max(1, max |r|)",
        f"confidences {', '.join(f'{c:g}' for c in EXIT_CONFIDENCES[:-1])} and {EXIT_CONFIDENCES[-1]}",
        "density below 1/3",
    ):
        assert said in FLAT, said
    assert graphs.SPARSE_BELOW == 1 / 3


def test_element_types_are_those_that_graphs_may_hold() -> None:
    [listed] = re.findall(r"initializers, and tensors in attributes\) is ([A-Z0-9, or]+?), has", FLAT)
    named = {name.strip() for name in listed.replace(" or ", ",").split(",")}
    assert named == {onnx.TensorProto.DataType.Name(kind) for kind in graph.ELEMENT_BYTES}


def contains(whole: Any, part: Any) -> bool:
    """Whether `part` is `whole` with fields left out and lists cut short."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(part) <= len(whole) and all(map(contains, whole, part))
    return bool(whole == part)


def test_the_excerpt_is_from_the_shipped_artifact() -> None:
    [excerpt] = re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)
    manifest = json.loads(Path("models/fashion-mnist/manifest.json").read_bytes())
    assert contains(manifest, json.loads(excerpt))
    assert not contains(manifest, {"labels": ["Trouser"]})


def read_as_shown(folder: Path, artifact: Path, picture: Path) -> tuple[str, float]:
    """Label and probability that the reader of the document prints, as its users run it."""
    (folder / "read_artifact.py").write_text(PYTHON, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(folder / "read_artifact.py"), str(artifact), str(picture)]
    label, probability = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rsplit(" ", 1)
    return label, float(probability)


@pytest.mark.parametrize("size", [None, (49, 49), (61, 90)])
def test_the_reader_that_is_shown_answers_as_ours(tmp_path: Path, size: tuple[int, int] | None) -> None:
    [command] = re.findall(r"python read_artifact\.py (\S+) (\S+)", DOCS)
    folder, picture = map(Path, command)
    if size is not None:
        picture = tmp_path / "picture.png"
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture)
    artifact = Artifact.open(folder)
    predictor = Predictor(artifact, load_engine(artifact, "onnxruntime", EngineOptions(cores=1, batch_sizes=(1,))))
    [ours] = predictor.predict([artifact.preprocessor.prepare(picture.read_bytes())]).predictions
    label, probability = read_as_shown(tmp_path, folder, picture)
    assert label == artifact.manifest.labels[ours.top(1)[0]]
    assert probability == pytest.approx(ours.probabilities.max(), abs=1e-6)
    if size is None:
        assert f"# {label}," in DOCS


def test_the_reader_that_is_shown_refuses_an_altered_file(tmp_path: Path) -> None:
    folder = tmp_path / "altered"
    folder.mkdir()
    for path in Path("models/fashion-mnist").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / "trunk.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "trunk.onnx").write_bytes(content)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        read_as_shown(tmp_path, folder, Path("examples/fashion-mnist/ankle-boot-0.png"))
    assert "AssertionError: trunk.onnx" in failed.value.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_reference_inputs_can_be_made_again(name: str) -> None:
    artifact = Artifact.open(Path("models") / name)
    generator = np.random.default_rng(20250517)
    expected: dict[str, NDArray[np.generic]]
    spec = artifact.manifest.preprocessing
    if isinstance(spec, TextPreprocessing):
        longest = spec.lengths[-1]
        vocabulary = Tokenizer.from_file(str(artifact.path(spec.tokenizer))).get_vocab_size()
        ids = generator.integers(0, vocabulary, size=(32, longest))
        mask = np.zeros((32, longest), dtype=np.int64)
        for row, tokens in enumerate(np.linspace(1, longest, 32).round()):
            mask[row, : int(tokens)] = 1
        ids[mask == 0] = 0
        expected = {"input.input_ids": ids, "input.attention_mask": mask}
    else:
        assert isinstance(spec, ImagePreprocessing)
        shape = (32, len(spec.mean), spec.height, spec.width)
        expected = {"input.image": generator.standard_normal(shape, dtype=np.float32)}
    stored = artifact.reference()
    assert {key for key in stored if key.startswith("input.")} == set(expected)
    for key, values in expected.items():
        assert stored[key].dtype == values.dtype
        np.testing.assert_array_equal(stored[key], values)


@pytest.mark.parametrize("name", SHIPPED)
def test_graphs_have_the_inputs_and_outputs_that_the_document_says(name: str) -> None:
    artifact = Artifact.open(Path("models") / name)
    manifest = artifact.manifest
    specs = {spec.name: spec for spec in (*manifest.inputs, *manifest.features)}
    for stage in manifest.stages:
        model = graph.load_graph(artifact.path(stage.file))
        assert model.ir_version == graphs.IR_VERSION
        assert [tensor.name for tensor in model.graph.input] == list(stage.inputs)
        for tensor in (*model.graph.input, *model.graph.output):
            dims = [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
            known = specs.get(tensor.name)
            assert dims == (["batch", len(manifest.labels)] if known is None else list(known.shape))
            assert (known is None) == (tensor.name == "logits")
