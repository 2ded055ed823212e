"""Inputs that a command line names: files, or `-` for the standard input."""

import sys
from pathlib import Path

from runtime.errors import InputError

STDIN = "-"


def read_named(names: tuple[str, ...]) -> list[bytes]:
    """Return what each of the named files holds. Raises InputError for none at all, or naming what cannot be read."""
    if not names:
        raise InputError("empty_input", "There is nothing to predict. Name files, or - for the standard input.")
    return [_read(name) for name in names]


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise InputError("unreadable", f"{name!r} cannot be read: {error.strerror}.") from error
