"""Opens the tokenizer of an artifact, which may come from anyone.

The library behind it is written in Rust. Where it panics, Python sees an exception that is no `Exception`; where it
asks for absurd memory, the process dies. The first becomes a named error here, the second is looked for beforehand.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.errors import ArtifactError, NeurotrailsError
from runtime.plain_file import read_plain

MAX_TOKENIZER_BYTES = 64 * 2**20
PROBE = "A text, in Words: naïve 1234!"
"""What every tokenizer must be able to read."""


def open_tokenizer(path: Path, tokens: int) -> Tokenizer:
    """Open a tokenizer that cuts texts at `tokens` and pads nothing, whatever the file says. Raises ArtifactError."""
    content = read_plain(path, MAX_TOKENIZER_BYTES)
    try:
        document = json.loads(content.decode("utf-8"))
        _check_normalizer(document.get("normalizer"))
        document.update(truncation=None, padding=None)
        tokenizer = Tokenizer.from_str(json.dumps(document))
        tokenizer.enable_truncation(tokens)
    except BaseException as error:  # it raises bare Exception, and worse where it panics
        raise tokenizer_error(error, f"{path} is not a tokenizer") from error
    encode(tokenizer, PROBE)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text. Raises ArtifactError where the tokenizer fails on it: a good one reads any text."""
    try:
        ids: list[int] = tokenizer.encode(text).ids
    except BaseException as error:
        raise tokenizer_error(error, "The tokenizer of this artifact fails on a text") from error
    return ids


def tokenizer_error(error: BaseException, what: str) -> BaseException:
    """Return what to raise in place of an error of the library, a panic included; interrupts stay what they are."""
    panicked = type(error).__name__ == "PanicException"
    if isinstance(error, NeurotrailsError) or not (panicked or isinstance(error, Exception)):
        return error
    return ArtifactError(f"{what}: {str(error)[:500]}. Export the artifact again.")


def _check_normalizer(normalizer: Any) -> None:
    """Raise ArtifactError for a table of characters whose length is a lie: the library reserves what it says."""
    if not isinstance(normalizer, dict):
        return
    for inner in normalizer.get("normalizers") or ():
        _check_normalizer(inner)
    if normalizer.get("type") != "Precompiled":
        return
    try:
        table = base64.b64decode(normalizer["precompiled_charsmap"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ArtifactError(f"The table of characters of the tokenizer is not base64: {error}.") from error
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size % 4 or size > len(table) - 4:
        raise ArtifactError(f"The table of characters of the tokenizer says {size} bytes and has {len(table)}.")
