"""The tuning cache: one JSON file for each artifact, CPU model and core budget, with a picture beside it.

tuning = find_tuning(artifact, cores=core_budget().cores)
"""

import hashlib
import json
import warnings
from pathlib import Path

from pydantic import ValidationError

from runtime.artifact import Artifact
from runtime.caches import cache_folder, is_private, make_private
from runtime.cpu import cpu
from runtime.errors import CacheError
from runtime.files import atomic_write
from runtime.tuning.records import TUNING_VERSION, Tuning

MAX_TUNING_BYTES = 16 * 2**20


class TuningIgnored(UserWarning):
    """A tuning in the cache cannot be used; it counts as absent."""


def find_tuning(artifact: Artifact, cores: int) -> Tuning | None:
    """What `tune` measured for this artifact, on this CPU model, with this core budget; None if it did not.

    A file that is damaged, too new or of something else is named in a TuningIgnored warning and counts as absent; so
    does one in a folder where others may have written.
    """
    folder = cache_folder("tuning")
    path = None if folder is None else _path(folder, artifact, cores)
    if folder is None or path is None or not path.is_file():
        return None
    problem = None if is_private(folder) else f"{folder} is not ours alone; close it to others (chmod 700)"
    tuning = None
    if problem is None:
        try:
            tuning = _read(path)
            problem = _mismatch(tuning, artifact, cores)
        except ValueError as error:
            problem = str(error)
    if problem is not None:
        warnings.warn(f"The tuning {path} is ignored: {problem}. Tune again.", TuningIgnored, stacklevel=2)
        return None
    return tuning


def tuning_path(artifact: Artifact, cores: int) -> Path:
    """Where the tuning of an artifact belongs; makes the folder. Raises CacheError where nothing can be kept."""
    folder = cache_folder("tuning")
    if folder is None:
        raise CacheError("There is no home to keep a tuning in. Set NEUROTRAILS_CACHE to a folder for it.")
    try:
        private = make_private(folder)
    except OSError as error:
        raise CacheError(
            f"{folder} cannot be made ({error.strerror}). Set NEUROTRAILS_CACHE to a folder that can."
        ) from error
    if not private:
        raise CacheError(f"{folder} is not ours alone. Close it to others (chmod 700), or set NEUROTRAILS_CACHE.")
    return _path(folder, artifact, cores)


def write_tuning(path: Path, tuning: Tuning, picture: str) -> Path:
    """Write a tuning and, beside it, its picture (SVG), whose path is returned. Raises CacheError."""
    picture_path = path.with_suffix(".svg")
    try:
        atomic_write(path, (tuning.model_dump_json(indent=1) + "\n").encode())
        atomic_write(picture_path, picture.encode())
    except OSError as error:
        raise CacheError(f"{path} cannot be written: {error.strerror}.") from error
    return picture_path


def _path(folder: Path, artifact: Artifact, cores: int) -> Path:
    key = json.dumps([artifact.sha256, cpu()[0], cores])
    return folder / f"{artifact.manifest.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> Tuning:
    """Read a tuning. Raises ValueError that says in a few words what is wrong with it."""
    try:
        if path.stat().st_size > MAX_TUNING_BYTES:
            raise ValueError("it is too large to be one")
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error
    try:
        document = json.loads(text)
        version = document["tuning_version"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"it is no tuning ({error!r})") from error
    if version != TUNING_VERSION:
        raise ValueError(f"it has version {version!r}, this software reads {TUNING_VERSION}")
    try:
        return Tuning.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from error


def _mismatch(tuning: Tuning, artifact: Artifact, cores: int) -> str | None:
    """What a tuning does not share with what it was looked up for: somebody has renamed files."""
    found = (tuning.artifact_sha256, tuning.cpu, tuning.cores)
    expected = (artifact.sha256, cpu()[0], cores)
    if found == expected:
        return None
    return f"it is of artifact {found[0][:12]} on {found[1]} with {found[2]} cores"
