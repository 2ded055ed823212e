"""The published JSON Schema is that of the models, and both refuse the same broken manifests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from runtime.artifact import parse_manifest
from runtime.errors import ArtifactError, SchemaTooNew
from runtime.manifest_schema import render

PUBLISHED = Path("docs/manifest.schema.json")
VALIDATOR = Draft202012Validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))
MANIFESTS = {path.parent.name: path.read_bytes() for path in sorted(Path("models").glob("*/manifest.json"))}
Change = Callable[[dict[str, Any]], object]


def test_the_published_schema_is_what_the_models_give() -> None:
    remedy = "python -m runtime.manifest_schema > docs/manifest.schema.json"
    assert PUBLISHED.read_text(encoding="utf-8") == render(), remedy


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("name", MANIFESTS)
def test_shipped_manifests_are_valid(name: str) -> None:
    VALIDATOR.validate(json.loads(MANIFESTS[name]))


def test_manifests_of_tests_are_valid(image_folder: Path, text_folder: Path) -> None:
    for folder in (image_folder, text_folder):
        VALIDATOR.validate(json.loads((folder / "manifest.json").read_bytes()))


def broken(change: Change, name: str = "fashion-mnist") -> dict[str, Any]:
    """A shipped manifest after `change`."""
    document: dict[str, Any] = json.loads(MANIFESTS[name])
    change(document)
    return document


def refuse(document: dict[str, Any]) -> None:
    """The reader must refuse a manifest, whatever the schema says of it."""
    with pytest.raises(ArtifactError, match=r"manifest\.json is|schema version"):
        parse_manifest(json.dumps(document).encode(), "changed")


BY_BOTH: dict[str, Change] = {
    "no version of the schema": lambda d: d.pop("schema_version"),
    "a version that is true": lambda d: d.update(schema_version=True),
    "a version that is text": lambda d: d.update(schema_version="1"),
    "version 0": lambda d: d.update(schema_version=0),
    "a future version": lambda d: d.update(schema_version=2),
    "an unknown field": lambda d: d.update(surprise=1),
    "an unknown field deep inside": lambda d: d["sparsity"]["layers"][0].update(surprise=1),
    "a missing field": lambda d: d.pop("trunk"),
    "a path as a name": lambda d: d.update(name="../x"),
    "a path as a file": lambda d: d["heads"][0].update(file="/etc/passwd"),
    "a path among the files": lambda d: d["files"].update({"../x": {"bytes": 0, "sha256": "0" * 64}}),
    "a hidden file": lambda d: d["files"].update({".x": {"bytes": 0, "sha256": "0" * 64}}),
    "a hash that is too short": lambda d: d["files"]["trunk.onnx"].update(sha256="0" * 63),
    "a hash in capitals": lambda d: d["files"]["trunk.onnx"].update(sha256="A" * 64),
    "a negative size": lambda d: d["files"]["trunk.onnx"].update(bytes=-1),
    "a count as text": lambda d: d["calibration"].update(rows="3000"),
    "a count that is true": lambda d: d["calibration"].update(rows=True),
    "half a row": lambda d: d["calibration"].update(rows=0.5),
    "a temperature of 0": lambda d: d["calibration"].update(temperatures=[1.0, 0.0, 1.0]),
    "an accuracy above 1": lambda d: d["evaluation"][0].update(accuracy=1.01),
    "an unknown precision": lambda d: d.update(precision="fp8"),
    "an unknown vote": lambda d: d.update(vote="median"),
    "an unknown element type": lambda d: d["inputs"][0].update(dtype="float64"),
    "an unknown axis": lambda d: d["inputs"][0].update(shape=["batch", "pixels"]),
    "an axis of size 0": lambda d: d["inputs"][0].update(shape=["batch", 0]),
    "no inputs": lambda d: d.update(inputs=[]),
    "one label": lambda d: d.update(labels=["only"]),
    "no heads": lambda d: d.update(heads=[]),
    "too many heads": lambda d: d.update(heads=d["heads"][:1] * 1001),
    "preprocessing of no kind": lambda d: d["preprocessing"].pop("kind"),
    "preprocessing of another kind": lambda d: d["preprocessing"].update(kind="text"),
    "a mode that is no mode": lambda d: d["preprocessing"].update(mode="CMYK"),
    "a deviation of 0": lambda d: d["preprocessing"].update(std=[0]),
    "a deviation that is 0 in float32": lambda d: d["preprocessing"].update(std=[1e-60]),
    "a deviation that is not finite": lambda d: d["preprocessing"].update(std=[float("inf")]),
    "a mean beyond float32": lambda d: d["preprocessing"].update(mean=[1e60]),
    "a temperature that is not finite": lambda d: d["calibration"].update(temperatures=[1.0, float("inf"), 1.0]),
    "a temperature that makes all votes 0 / 0": lambda d: d["calibration"].update(temperatures=[1e-320] * 3),
    "a count beyond 64 bits": lambda d: d["trunk"].update(dense_macs=2**63),
    "a count beyond any float": lambda d: d["trunk"].update(dense_macs=10**400),
    "too many labels": lambda d: d.update(labels=["x"] * 100_001),
    "too many axes": lambda d: d["inputs"][0].update(shape=["batch", *[1] * 8]),
    "a tensor without a name": lambda d: d["features"][0].update(name=""),
    "a head without inputs": lambda d: d["heads"][0].update(inputs=[]),
    "a weight of size 0": lambda d: d["sparsity"]["layers"][0].update(shape=[0, 0, 0, 0]),
    "giant pictures": lambda d: d["preprocessing"].update(height=4097),
    "no text where one belongs": lambda d: d["provenance"].update(command=None),
    "a manifest in a list": lambda d: d.update(sparsity=[d["sparsity"]]),
}
"""Changes that the schema can express, by what they make."""


@pytest.mark.parametrize("what", BY_BOTH)
def test_what_the_schema_refuses(what: str) -> None:
    document = broken(BY_BOTH[what])
    assert not VALIDATOR.is_valid(document)
    refuse(document)


@pytest.mark.parametrize("lengths", [[], [0], [65537], ["64"], [64.5]])
def test_lengths_that_the_schema_refuses(lengths: list[object]) -> None:
    document = broken(lambda d: d["preprocessing"].update(lengths=lengths), "newsgroups")
    assert not VALIDATOR.is_valid(document)
    refuse(document)


BY_THE_READER: dict[str, Change] = {
    "an integer with a fraction of 0": lambda d: d["calibration"].update(rows=3000.0),
    "a version with a fraction of 0": lambda d: d.update(schema_version=1.0),
    "a mean that is not finite": lambda d: d["preprocessing"].update(mean=[float("nan")]),
    "an accuracy that is not finite": lambda d: d["evaluation"][0].update(accuracy=float("nan")),
    "a name that ends in a line break": lambda d: d.update(name="fashion-mnist\n"),
    "another modality": lambda d: d.update(modality="text"),
    "too few temperatures": lambda d: d["calibration"].update(temperatures=[1.0]),
    "an order that is none": lambda d: d["calibration"].update(order=[0, 0, 1]),
    "a trunk without features": lambda d: d.update(features=[]),
    "a head with two outputs": lambda d: d["heads"][0].update(outputs=["logits", "features"]),
    "a head that reads what nobody writes": lambda d: d["heads"][0].update(inputs=["elsewhere"]),
    "a sum that is none": lambda d: d["sparsity"].update(kept=1),
    "three means for one channel": lambda d: d["preprocessing"].update(mean=[0.1, 0.2, 0.3]),
    "a crop outside the picture": lambda d: d["preprocessing"].update(resize_shorter=27),
    "a file too few": lambda d: d["files"].pop("head_0.onnx"),
    "a file too many": lambda d: d["files"].update({"more.onnx": {"bytes": 0, "sha256": "0" * 64}}),
}
"""Changes that the document says are beyond the schema."""


def _layer(**fields: object) -> Change:
    """Change the first layer that has a mask, and the totals with it."""

    def change(document: dict[str, Any]) -> None:
        sparsity = document["sparsity"]
        layer = next(layer for layer in sparsity["layers"] if layer["masked"])
        layer.update(fields)
        for total in ("weights", "kept", "nonzero"):
            sparsity[total] = sum(layer[total] for layer in sparsity["layers"])

    return change


def _rename(old: str, new: str) -> Change:
    """Give a file another name, wherever the manifest says the old one."""

    def change(document: dict[str, Any]) -> None:
        document["files"][new] = document["files"].pop(old)
        for stage in (
            document["trunk"],
            *document["heads"],
            document["preprocessing"],
            *document["sparsity"]["layers"],
        ):
            for field, value in stage.items():
                stage[field] = new if value == old else value

    return change


RELATIONS: dict[str, tuple[Change, str]] = {
    "weights that are not the product of the shape": (_layer(weights=5), "has 5 weights"),
    "more kept than weights": (_layer(kept=10**6), "nonzero <= kept <= weights"),
    "more not zero than kept": (_layer(kept=1), "nonzero <= kept <= weights"),
    "no mask, and yet not all kept": (_layer(masked=False), "keeps all of its weights"),
    "a layer twice": (lambda d: d["sparsity"]["layers"].append(d["sparsity"]["layers"][0]), "not the sum"),
    "a layer twice, with totals": (
        lambda d: (d["sparsity"]["layers"].append(d["sparsity"]["layers"][0]), _layer()(d)), "is there twice",
    ),
    "more effective than dense MACs": (lambda d: d["trunk"].update(effective_macs=10**12), "exceed dense_macs"),
    "an input of another size": (lambda d: d["inputs"][0].update(shape=["batch", 1, 28, 27]), "makes other inputs"),
    "an input of another type": (lambda d: d["inputs"][0].update(dtype="uint8"), "makes other inputs"),
    "an input too many": (lambda d: d["inputs"].append({**d["inputs"][0], "name": "more"}), "makes other inputs"),
    "the batch as second axis": (lambda d: d["features"][0].update(shape=[32, "batch"]), "batch as its first axis"),
    "the batch twice": (lambda d: d["features"][0].update(shape=["batch", "batch"]), "batch as its first axis"),
    "tokens of pictures": (lambda d: d["features"][0].update(shape=["batch", "tokens"]), "reads no texts"),
    "a giant row": (lambda d: d["features"][0].update(shape=["batch", 2**15, 2**15]), "more than 268435456 values"),
    "a feature with the name of an input": (lambda d: d["features"][0].update(name="image"), "'image' is there twice"),
    "a stage that reads what it writes": (lambda d: d["heads"][0].update(outputs=["features"]), "is there twice"),
    "one file for two heads": (lambda d: d["heads"][1].update(file="head_0.onnx"), "'head_0.onnx' is there twice"),
    "a stage that is the manifest": (_rename("trunk.onnx", "manifest.json"), "'manifest.json' is there twice"),
    "a stage that is the reference": (
        lambda d: d["trunk"].update(file="reference.safetensors"), "'reference.safetensors' is there twice",
    ),
    "an exit curve out of order": (lambda d: d["early_exit"]["points"].reverse(), "strictly ascending"),
    "fewer heads than one": (lambda d: d["early_exit"]["points"][0].update(mean_heads=0.5), "from 1 to 3, not 0.5"),
    "more heads than all": (lambda d: d["early_exit"]["points"][0].update(mean_heads=3.1), "from 1 to 3, not 3.1"),
    "accuracies of too few heads": (lambda d: d["evaluation"][0].update(head_accuracy=[0.9]), "as many in head_acc"),
    "no disagreement of three heads": (lambda d: d["evaluation"][0].update(disagreement=None), "null for one head"),
    "a split twice": (lambda d: d["evaluation"].append(d["evaluation"][0]), "is there twice"),
}  # fmt: skip
"""Changes that make two parts of a manifest disagree, with what the reader says of it."""


@pytest.mark.parametrize("what", RELATIONS)
def test_parts_that_disagree(what: str) -> None:
    change, problem = RELATIONS[what]
    document = broken(change)
    assert VALIDATOR.is_valid(document)
    with pytest.raises(ArtifactError, match=problem):
        parse_manifest(json.dumps(document).encode(), "changed")


@pytest.mark.parametrize("inputs", [["input_ids"], ["attention_mask", "input_ids"], ["input_ids", "input_ids"]])
def test_a_text_reads_ids_and_mask_in_any_order(inputs: list[str]) -> None:
    def change(document: dict[str, Any]) -> None:
        document["inputs"] = [{**document["inputs"][0], "name": name} for name in inputs]

    text = json.dumps(broken(change, "newsgroups")).encode()
    if sorted(inputs) == ["attention_mask", "input_ids"]:
        assert [spec.name for spec in parse_manifest(text, "changed").inputs] == inputs
        return
    with pytest.raises(ArtifactError, match=r"makes other inputs|is there twice"):
        parse_manifest(text, "changed")


@pytest.mark.parametrize("what", BY_THE_READER)
def test_what_only_the_reader_refuses(what: str) -> None:
    document = broken(BY_THE_READER[what])
    assert VALIDATOR.is_valid(document)
    refuse(document)


def test_a_future_version_is_said_to_be_one() -> None:
    text = json.dumps(broken(lambda d: d.update(schema_version=2, surprise=1))).encode()
    with pytest.raises(SchemaTooNew, match="schema version 2, this software knows up to 1"):
        parse_manifest(text, "future")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_a_manifest_is_utf_8_without_mark(encoding: str) -> None:
    document = broken(lambda d: d.update(description="café"))
    text = json.dumps(document, ensure_ascii=False)
    assert parse_manifest(text.encode("utf-8"), "same").description == "café"
    with pytest.raises(ArtifactError, match=r"manifest\.json is"):
        parse_manifest(text.encode(encoding), "changed")


@pytest.mark.parametrize(("part", "field"), [("evaluation", "nll"), ("early_exit", "mean_heads")])
def test_metrics_may_be_undefined(part: str, field: str) -> None:
    def change(document: dict[str, Any]) -> None:
        measured = document["evaluation"] if part == "evaluation" else document["early_exit"]["points"]
        measured[0][field] = float("nan")

    assert parse_manifest(json.dumps(broken(change)).encode(), "undefined").name == "fashion-mnist"


def test_fields_with_a_default_may_be_left_out() -> None:
    def change(document: dict[str, Any]) -> None:
        document.pop("description")
        document["preprocessing"].pop("interpolation")
        document["trunk"].pop("activation_macs")
        document["calibration"].pop("order", None)

    document = broken(change)
    VALIDATOR.validate(document)
    manifest = parse_manifest(json.dumps(document).encode(), "short")
    assert manifest.preprocessing.kind == "image"
    found = (manifest.description, manifest.preprocessing.interpolation, manifest.calibration.order)
    assert found == ("", "bilinear", ())
