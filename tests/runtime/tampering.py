"""Damage an artifact in such a way that sizes and hashes still agree, as a faulty or hostile exporter would."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import ModelProto

from runtime.artifact import MANIFEST, sha256_of


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, as JSON."""
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and its size and hash in the manifest."""
    (folder / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": sha256_of(folder / name)}
    edit_manifest(folder, lambda document: document["files"].__setitem__(name, entry))


def edit_graph(folder: Path, name: str, change: Callable[[ModelProto], None]) -> None:
    """Change a graph."""
    model = ModelProto()
    model.ParseFromString((folder / name).read_bytes())
    change(model)
    replace_file(folder, name, model.SerializeToString())
