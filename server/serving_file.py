"""`serving.yaml`: which models are to be served, and in which versions. Read strictly, written atomically.

models:
  fashion-mnist: {version: latest}
  newsgroups: {version: 2, engine: onnxruntime, min_heads: 1}
"""

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.files import atomic_write
from runtime.manifest import Identifier
from server.catalog import LATEST
from server.errors import ServingError

MAX_BYTES = 2**20
HEADER = b"# Which models are served, and in which versions; see docs/models.md. The admin API rewrites this file.\n"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Entry(_Strict):
    """How one model is to be served."""

    version: Identifier = LATEST
    """A version on the search path, or `latest`: the highest one there."""
    engine: Identifier | None = None
    """Engine that runs it; default: the setting."""
    precision: Identifier | None = None
    """Precision of execution, one that the engine offers for it; default: the one it is stored in."""
    min_heads: Annotated[int, Field(ge=1)] | None = None
    """Fewest heads that vote under load; default: the setting."""


class Serving(_Strict):
    """The whole file."""

    models: dict[Identifier, Entry]
    """By name; none for an empty mapping."""


FileStamp = tuple[int, int, int, str]
"""Time of change, size, inode and hash of the content: another one when the file was written, or is another file."""


@dataclass(frozen=True)
class Reading:
    """The file as it was read."""

    models: Mapping[str, Entry]
    stamp: FileStamp


def read_serving(path: Path) -> Reading | None:
    """Read and check the file; None where there is none. Raises ServingError."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise ServingError(f"{path} is not a plain file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServingError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise ServingError(f"{path} has more than {MAX_BYTES} bytes, so it is no list of models.")
    stamp = found.st_mtime_ns, found.st_size, found.st_ino, hashlib.sha256(content).hexdigest()
    return Reading(parse_serving(content, path).models, stamp)


def parse_serving(content: bytes, path: Path) -> Serving:
    """Parse the content of the file; `path` names it in errors. Raises ServingError."""
    try:
        return Serving.model_validate(yaml.load(content, Loader=_Loader))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[:5]
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}, not {str(e['input'])[:100]!r}" for e in found
        )
        raise ServingError(f"{path} is no list of models: {problems}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ServingError(f"{path} is no YAML: {' '.join(str(error).split())[:300]}.") from error


def write_serving(path: Path, models: Mapping[str, Entry]) -> None:
    """Write the file, so that a reader sees the old or the new content. Raises ServingError."""
    document = {"models": {name: models[name].model_dump(exclude_none=True) for name in sorted(models)}}
    try:
        atomic_write(path, HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    except OSError as error:
        raise ServingError(f"{path} cannot be written: {error.strerror}.") from error


class _Loader(yaml.BaseLoader):
    """Every scalar is a string, so that version 1.10 is not 1.1; a name may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping
