"""From inputs to the body of a request."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Input = str | bytes | Path
"""A text; the content of a file; or the file itself. Files hold an image, or a text in UTF-8."""


@dataclass(frozen=True)
class Body:
    """A body, and what it is."""

    content_type: str
    data: bytes


def encode(inputs: Input | Sequence[Input]) -> Body:
    """Encode one input or several: texts as JSON, all else as a form of files, where nothing has to become base64.

    Raises OSError for a file that cannot be read, TypeError for what is no input.
    """
    several = [inputs] if isinstance(inputs, str | bytes | Path) else list(inputs)
    texts = [value for value in several if isinstance(value, str)]
    if len(texts) == len(several):
        return Body("application/json", json.dumps({"inputs": [{"text": text} for text in texts]}).encode())
    boundary = secrets.token_hex(16)
    parts = []
    for value in several:
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="input"\r\n\r\n'
        parts += [head.encode(), _content(value), b"\r\n"]
    return Body(f"multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()]))


def _content(value: Input) -> bytes:
    match value:
        case str():
            return value.encode()
        case bytes():
            return value
        case Path():
            return value.read_bytes()
    raise TypeError(f"An input is a text (str), what an image file holds (bytes) or a file (Path), not {type(value)}.")
