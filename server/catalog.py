"""The search path: which models lie there, and in which versions. Reads manifests; files are hashed when one is loaded.

Catalog((Path("models"),)).scan().find("fashion-mnist", "latest").folder
"""

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from runtime.artifact import MANIFEST, MAX_MANIFEST_BYTES, parse_manifest
from runtime.errors import ArtifactError
from runtime.manifest import Identifier
from runtime.plain_file import read_plain
from server.errors import ServingError

LATEST = "latest"
"""Stands for the highest version of a model on the search path."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, time of change, size and inode of each file in a folder: another one when somebody has touched it."""

_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


@dataclass(frozen=True)
class Version:
    """One version of a model on the search path. Equal versions are the same artifact, wherever it lies."""

    name: str
    version: str
    sha256: str
    """Of its manifest, which holds those of all other files; empty where the manifest cannot be read."""
    folder: Path = field(compare=False)
    stamp: Stamp = field(compare=False)
    problem: str | None = None
    """Why it cannot be served, as far as its manifest tells."""


@dataclass(frozen=True)
class Found:
    """What lies on the search path."""

    versions: Mapping[str, Mapping[str, Version]]
    """By name and version; each name has at least one."""
    problems: tuple[str, ...]
    """Artifacts of which not even name and version are known."""

    def newest_first(self, name: str) -> tuple[str, ...]:
        """All versions of a model; none of an unknown one."""
        return tuple(sorted(self.versions.get(name, ()), key=version_order, reverse=True))

    def find(self, name: str, version: str) -> Version:
        """Find a model in a version, or in its highest one for LATEST. Raises ServingError if it cannot be served."""
        there = self.newest_first(name)
        if not there:
            known = ", ".join(sorted(self.versions)) or "none"
            raise ServingError(
                " ".join(
                    (f"There is no model {name[:100]!r} on the search path; the models are: {known}.", *self.problems)
                )
            )
        found = self.versions[name].get(there[0] if version == LATEST else version)
        if found is None:
            raise ServingError(
                f"There is no version {version!r} of model {name!r} on the search path; the versions are: "
                f"{', '.join(there)}."
            )
        if found.problem is not None:
            raise ServingError(found.problem)
        return found


def version_order(version: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key of versions: digits count as one number, everything else as text, and what goes on is higher.

    1 < 2 < 10, 1.9 < 1.10, 1 < 1.0 < 1.0-b. In the same place text is lower than a number.
    """
    parts = re.findall(r"\d+|\D+", version)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts], version


class Catalog:
    """Scans the folders of the search path: an artifact lies in `name/version/`, or in a folder directly below."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._known: dict[Path, tuple[Stamp, Version | str]] = {}
        self._lock = threading.Lock()

    def scan(self) -> Found:
        """List all models. Manifests are read again only where a file has changed. Raises ServingError."""
        versions: dict[str, dict[str, Version]] = {}
        problems = []
        known = {}
        with self._lock:
            try:
                for folder, expected in self._candidates():
                    stamp = _stamp(folder)
                    before = self._known.get(folder)
                    found = before[1] if before and before[0] == stamp else _read(folder, expected, stamp)
                    known[folder] = stamp, found
                    if isinstance(found, str):
                        problems.append(found)
                    else:
                        of_name = versions.setdefault(found.name, {})
                        of_name[found.version] = _only_one(of_name.get(found.version), found)
            except OSError as error:
                raise ServingError(f"The models cannot be listed: {error}.") from error
            self._known = known
        return Found(versions, tuple(problems))

    def _candidates(self) -> Iterator[tuple[Path, tuple[str, str] | None]]:
        """Each folder with a manifest, and the name and version that the folders around it promise."""
        for folder in self._folders:
            if not folder.is_dir():
                raise ServingError(
                    f"The models folder {str(folder)!r} does not exist. Point NEUROTRAILS_MODELS to one."
                )
            for path in _subfolders(folder):
                if (path / MANIFEST).is_file():
                    yield path, None
                    continue
                for below in _subfolders(path):
                    if (below / MANIFEST).is_file():
                        yield below, (path.name, below.name)


def _subfolders(folder: Path) -> list[Path]:
    """Those that are not hidden: an artifact that is being written is."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def _stamp(folder: Path) -> Stamp:
    found = ((path.name, path.lstat()) for path in folder.iterdir())
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in found))


def _read(folder: Path, expected: tuple[str, str] | None, stamp: Stamp) -> Version | str:
    """Read a manifest; where it is no good and the folders around it do not say whose it is, return what is wrong."""
    try:
        text = read_plain(folder / MANIFEST, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(text, str(folder))
    except ArtifactError as error:
        problem = _cannot(folder, str(error))
        if expected is None or not all(map(_is_identifier, expected)):
            return problem
        return Version(*expected, "", folder, stamp, problem)
    said = manifest.name, manifest.version
    wrong = None
    if expected is not None and said != expected:
        wrong = f"its manifest says {' version '.join(said)}, so its folder must be named {'/'.join(said)}."
    elif manifest.version == LATEST:
        wrong = f"no version may be called {LATEST!r}, which stands for the highest one. Export it with another."
    elif manifest.modality == "tensor":
        wrong = "it takes tensors; this server takes images and texts. Remove it."
    name, version = expected or said
    digest = hashlib.sha256(text).hexdigest()
    return Version(name, version, digest, folder, stamp, None if wrong is None else _cannot(folder, wrong))


def _only_one(before: Version | None, found: Version) -> Version:
    """Refuse both of two artifacts that say they are the same: nobody can know which one is meant."""
    if before is None:
        return found
    problem = (
        f"{str(before.folder)!r} and {str(found.folder)!r} both hold a model named {found.name!r} in version "
        f"{found.version!r}. Remove one."
    )
    return Version(found.name, found.version, "", found.folder, before.stamp + found.stamp, problem)


def _cannot(folder: Path, why: str) -> str:
    return f"Model {str(folder)!r} cannot be served: {why}"


def _is_identifier(name: str) -> bool:
    try:
        _IDENTIFIER.validate_python(name)
    except ValidationError:
        return False
    return True
