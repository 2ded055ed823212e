import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.artifact import MANIFEST, MAX_MANIFEST_BYTES, Artifact
from runtime.errors import ArtifactError, SchemaTooNew
from runtime.graph import load_graph
from tests.runtime.tampering import edit_manifest, replace_file


def test_open(image_folder: Path) -> None:
    artifact = Artifact.open(str(image_folder))
    assert artifact.manifest.name == "tiny-image"
    assert artifact.sha256 == hashlib.sha256((image_folder / MANIFEST).read_bytes()).hexdigest()
    assert artifact.path("head_1.onnx") == image_folder / "head_1.onnx"
    with pytest.raises(ArtifactError, match=r"lists no file 'manifest\.json'"):
        artifact.path("manifest.json")
    reference = artifact.reference()
    assert reference["input.image"].shape == (32, 1, 12, 12)
    assert reference["logits.2"].shape == (32, 5)


@pytest.mark.parametrize("name", ["trunk.onnx", "head_2.onnx", "reference.safetensors"])
def test_a_missing_file(image_folder: Path, name: str) -> None:
    (image_folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        Artifact.open(image_folder)


def test_a_truncated_file(image_folder: Path) -> None:
    path = image_folder / "trunk.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"has {len(content) - 1} bytes, the manifest says {len(content)}"):
        Artifact.open(image_folder)


@pytest.mark.parametrize("name", ["trunk.onnx", "reference.safetensors"])
def test_one_altered_bit(image_folder: Path, name: str) -> None:
    path = image_folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="It was altered"):
        Artifact.open(image_folder)


def test_a_symbolic_link_is_not_followed(image_folder: Path) -> None:
    outside = image_folder.parent / "outside.onnx"
    (image_folder / "trunk.onnx").rename(outside)
    (image_folder / "trunk.onnx").symlink_to(outside)
    with pytest.raises(ArtifactError, match="not a plain file"):
        Artifact.open(image_folder)


def test_a_manifest_behind_a_symbolic_link_is_not_followed(image_folder: Path) -> None:
    outside = image_folder.parent / "outside.json"
    (image_folder / MANIFEST).rename(outside)
    (image_folder / MANIFEST).symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing or not a plain file"):
        Artifact.open(image_folder)


def test_the_folder_itself_may_be_a_link(image_folder: Path) -> None:
    """Where an artifact lies is the user's choice; what lies in it is not."""
    link = image_folder.parent / "latest"
    link.symlink_to(image_folder)
    assert Artifact.open(link).manifest.name == "tiny-image"


@pytest.mark.parametrize("name", [MANIFEST, "trunk.onnx", "reference.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(image_folder: Path, name: str) -> None:
    (image_folder / name).unlink()
    os.mkfifo(image_folder / name)
    with pytest.raises(ArtifactError, match="not a plain file"):
        Artifact.open(image_folder)


@pytest.mark.parametrize("name", ["head_0.onnx", "reference.safetensors"])
def test_what_is_swapped_after_opening_is_not_followed(image_folder: Path, name: str) -> None:
    artifact = Artifact.open(image_folder)
    (image_folder / name).rename(image_folder.parent / name)
    (image_folder / name).symlink_to(image_folder.parent / name)
    with pytest.raises(ArtifactError, match="not a plain file"):
        artifact.reference() if name == "reference.safetensors" else load_graph(artifact.path(name))


def test_files_that_nobody_lists_are_ignored(image_folder: Path) -> None:
    (image_folder / "notes.txt").write_text("mine")
    (image_folder / "folder").mkdir()
    assert set(Artifact.open(image_folder).manifest.files) == {"trunk.onnx", "reference.safetensors"} | {
        f"head_{head}.onnx" for head in range(3)
    }


@pytest.mark.parametrize("where", ["the manifest", "a layer"])
def test_a_name_twice_is_refused(image_folder: Path, where: str) -> None:
    """Of two equal names, one parser takes the first and the next one the last."""
    text = (image_folder / MANIFEST).read_text()
    old, new = ('"schema_version"', '"name": "other", "schema_version"') if where == "the manifest" else (
        '"masked"', '"masked": false, "masked"'
    )  # fmt: skip
    (image_folder / MANIFEST).write_text(text.replace(old, new, 1))
    with pytest.raises(ArtifactError, match="a name twice"):
        Artifact.open(image_folder)


def test_errors_stay_short(image_folder: Path) -> None:
    edit_manifest(image_folder, lambda document: document.update({"x" * 10**6: 1, "y" * 10**6: 2}))
    with pytest.raises(ArtifactError, match="is invalid") as caught:
        Artifact.open(image_folder)
    assert len(str(caught.value)) < 3000


def test_a_folder_in_place_of_a_file(image_folder: Path) -> None:
    (image_folder / "trunk.onnx").unlink()
    (image_folder / "trunk.onnx").mkdir()
    with pytest.raises(ArtifactError, match="not a plain file"):
        Artifact.open(image_folder)


@pytest.mark.parametrize("version", [2, 99, 10**30])
def test_a_future_schema(image_folder: Path, version: int) -> None:
    edit_manifest(image_folder, lambda document: document.update(schema_version=version, unknown_field=1))
    with pytest.raises(SchemaTooNew, match=f"schema version {version}, this software knows up to 1"):
        Artifact.open(image_folder)


@pytest.mark.parametrize(
    "name", ["../trunk.onnx", "/etc/passwd", "a/b.onnx", "..", ".", "", ".hidden", "a\\b", "trunk.onnx\n", "é.onnx"]
)
def test_names_that_leave_the_folder_are_refused(image_folder: Path, name: str) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["files"][name] = document["files"].pop("trunk.onnx")
        document["trunk"]["file"] = name

    edit_manifest(image_folder, rename)
    with pytest.raises(ArtifactError, match=r"manifest\.json is invalid"):
        Artifact.open(image_folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"manifest"', "{}", "[" * 100_000, "\xff", '{"schema_version": "1"}']
)
def test_what_is_no_manifest(image_folder: Path, text: str) -> None:
    (image_folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"manifest\.json is"):
        Artifact.open(image_folder)


def _set(path: str, value: object) -> Any:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = document
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("surprise", 1),
        ("name", "../x"),
        ("modality", "text"),
        ("precision", "fp8"),
        ("labels", ["only one"]),
        ("heads", []),
        ("features", []),
        ("trunk", None),
        ("calibration.temperatures", [1.0]),
        ("calibration.temperatures", [1.0, 0.0, 1.0]),
        ("calibration.temperatures", [1.0, "inf", 1.0]),
        ("trunk.inputs", ["elsewhere"]),
        ("trunk.outputs", ["elsewhere"]),
        ("sparsity.nonzero", 1),
        ("sparsity.weights", -1),
        ("preprocessing.std", [0.0]),
        ("preprocessing.mean", [0.1, 0.2, 0.3]),
        ("preprocessing.resize_shorter", 3),
        ("files", {}),
    ],
)
def test_contradictions_are_refused(image_folder: Path, path: str, value: object) -> None:
    edit_manifest(image_folder, _set(path, value))
    with pytest.raises(ArtifactError, match=r"manifest\.json is invalid"):
        Artifact.open(image_folder)


@pytest.mark.parametrize("lengths", [[], [32, 8], [8, 8], [0]])
def test_lengths_ascend(text_folder: Path, lengths: list[int]) -> None:
    edit_manifest(text_folder, _set("preprocessing.lengths", lengths))
    with pytest.raises(ArtifactError, match=r"manifest\.json is invalid"):
        Artifact.open(text_folder)


def test_no_artifact_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Artifact.open(tmp_path)
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Artifact.open(tmp_path / "nowhere")


def test_a_manifest_that_is_too_large(image_folder: Path) -> None:
    with (image_folder / MANIFEST).open("r+b") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(ArtifactError, match="larger than 16 MiB"):
        Artifact.open(image_folder)


def _safetensors(header: str, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0\0\0\0\0\0{}      ..",
        b"\xff" * 8 + b"{}",
        (2**62).to_bytes(8, "little") + b"{}",
        _safetensors("[" * 50_000),
        _safetensors('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}', bytes(8)),
        _safetensors('{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}'),
        _safetensors('{"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}', bytes(4)),
        _safetensors('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
                     '"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)),
    ],
)  # fmt: skip
def test_an_unreadable_reference(image_folder: Path, content: bytes) -> None:
    replace_file(image_folder, "reference.safetensors", content)
    with pytest.raises(ArtifactError, match=r"reference\.safetensors cannot be read"):
        Artifact.open(image_folder).reference()


def test_the_manifest_survives_a_round_trip(image_folder: Path) -> None:
    manifest = Artifact.open(image_folder).manifest
    assert type(manifest).model_validate_json(manifest.model_dump_json()) == manifest
    assert json.loads((image_folder / MANIFEST).read_text())["schema_version"] == 1
