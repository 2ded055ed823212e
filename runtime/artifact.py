"""Opens an artifact folder: schema and hashes are checked before anything else sees a byte.

artifact = Artifact.open("models/fashion-mnist")
artifact.manifest.labels, artifact.path(artifact.manifest.heads[0].file)
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from runtime.errors import ArtifactError, SchemaTooNew
from runtime.manifest import MANIFEST as MANIFEST
from runtime.manifest import REFERENCE, SCHEMA_VERSION, FileEntry, Manifest
from runtime.plain_file import hash_plain, read_plain
from runtime.preprocess import Preprocessor, make_preprocessor

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_REFERENCE_BYTES = 2**30
MAX_PROBLEM = 300
"""Characters of a message that quotes the manifest."""


@dataclass(frozen=True)
class Artifact:
    """An artifact whose manifest is valid and whose files have the sizes and hashes that the manifest states."""

    folder: Path
    manifest: Manifest
    sha256: str
    """Hash of manifest.json, and so, through the hashes in it, of the whole artifact."""

    @classmethod
    def open(cls, folder: str | Path) -> "Artifact":
        """Open and check `folder`. Raises ArtifactError (SchemaTooNew for a newer schema)."""
        folder = Path(folder)
        text = _read_manifest(folder)
        manifest = parse_manifest(text, str(folder))
        for name, entry in manifest.files.items():
            _check_file(folder / name, entry)
        return cls(folder=folder, manifest=manifest, sha256=hashlib.sha256(text).hexdigest())

    def path(self, file: str) -> Path:
        """Path of one of the files that the manifest lists."""
        if file not in self.manifest.files:
            raise ArtifactError(f"{self.folder}: the manifest lists no file {file!r}.")
        return self.folder / file

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """What turns images or texts into the input tensors of this artifact."""
        return make_preprocessor(self.manifest.preprocessing, self.folder)

    def reference(self) -> dict[str, NDArray[np.generic]]:
        """Synthetic inputs `input.<name>` and the PyTorch logits `logits.<head>` [32, classes] for them.

        Raises ArtifactError.
        """
        path = self.path(REFERENCE)
        content = read_plain(path, MAX_REFERENCE_BYTES)
        try:
            return load(content)
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:  # unknown types
            raise ArtifactError(f"{path} cannot be read: {error}. Export the artifact again.") from error


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Parse the bytes of a manifest.json; `where` names it in errors."""
    try:
        document = json.loads(text, object_pairs_hook=_require_unique_names)
        version = document["schema_version"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ArtifactError(f"{where}: {MANIFEST} is not a manifest ({error!r}). Export the artifact again.") from error
    if type(version) is not int:  # true and 1.0 equal 1 for Python, not for a specification
        raise ArtifactError(
            f"{where}: {MANIFEST} is not a manifest: schema_version is a {type(version).__name__}, not an integer. "
            "Export the artifact again."
        )
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{where}: the artifact has schema version {str(version)[:40]}, this software knows up to "
            f"{SCHEMA_VERSION}. Update neurotrails, or export the artifact with this version."
        )
    try:
        return Manifest.model_validate_json(text, strict=True)  # "3", true and 3.0 are no integers
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:5]
        where_and_what = ((".".join(map(str, e["loc"])) or "manifest", e["msg"]) for e in found)
        problems = "; ".join(f"{_short(place)}: {_short(problem)}" for place, problem in where_and_what)
        raise ArtifactError(f"{where}: {MANIFEST} is invalid: {problems}") from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not path.exists():
        raise ArtifactError(f"{folder} is not an artifact: {MANIFEST} cannot be read (there is none).")
    return read_plain(path, MAX_MANIFEST_BYTES)


def _require_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a name twice: parsers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _short(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM else f"{text[:MAX_PROBLEM]}..."


def _check_file(path: Path, entry: FileEntry) -> None:
    digest = hash_plain(path, entry.bytes)
    if digest != entry.sha256:
        raise ArtifactError(
            f"{path} has sha256 {digest[:12]}..., the manifest says {entry.sha256[:12]}.... It was altered."
        )
