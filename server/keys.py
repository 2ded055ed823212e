"""API keys: who may ask. Without keys everybody may.

curl -H "Authorization: Bearer $KEY" -d "The goalkeeper saved two penalties." 127.0.0.1:8000/predict
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from pydantic import SecretStr

from server.errors import StartupError, Unauthorized

USABLE = re.compile(r"[\x21-\x7e]{16,512}")
"""A key: visible ASCII characters, so many that nobody guesses it."""


class Keys:
    """The keys that are valid. Only their digests are kept."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Raises StartupError for a key that is too short or cannot be sent in a header; it is not repeated."""
        self._digests = []
        for number, key in enumerate(keys, 1):
            if not USABLE.fullmatch(key):
                raise StartupError(
                    f"API key {number} must have 16 to 512 visible ASCII characters and no spaces; "
                    "`openssl rand -hex 32` makes a good one."
                )
            self._digests.append(_digest(key))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def require(self, headers: Mapping[str, str]) -> None:
        """Raise Unauthorized unless there are no keys or a request with these headers names one.

        Comparing takes the same time whatever is sent.
        """
        if not self._digests:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest, valid = _digest(given), False
        for known in self._digests:
            valid |= hmac.compare_digest(digest, known)
        if not valid:
            what = "This key is not valid" if given else "This server wants a key"
            raise Unauthorized(
                "unauthorized",
                f"{what}; send one of its own as Authorization: Bearer KEY, or as X-API-Key: KEY.",
                {"www-authenticate": "Bearer"},
            )


def collect_keys(own: Iterable[SecretStr], file: Path | None) -> Keys:
    """Return the keys that settings give, and those in the file that they name, if any. Raises StartupError."""
    listed = [] if file is None else read_keys_file(file)
    return Keys([*(key.get_secret_value() for key in own), *listed])


def read_keys_file(path: Path) -> list[str]:
    """Read one key per line; empty lines and those that begin with # count as nothing. Raises StartupError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise StartupError(f"The API keys in {str(path)!r} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise StartupError(f"{str(path)!r} holds no API key; write one on each line, or do not name the file.")
    return keys


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
