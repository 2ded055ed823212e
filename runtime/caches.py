"""Where this software keeps what it can make anew: compiled code, tunings, fetched data. One folder for each kind."""

import os
import stat
from pathlib import Path


def cache_folder(kind: str) -> Path | None:
    """Folder for one kind of things: `$NEUROTRAILS_CACHE`/kind, by default `$XDG_CACHE_HOME`/neurotrails/kind.

    Without either it is ~/.cache/neurotrails/kind; None without a home. The folder need not exist.
    """
    ours = os.environ.get("NEUROTRAILS_CACHE")
    if ours:
        return Path(ours) / kind
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a container may run under a user that nobody knows
        return None
    return Path(base) / "neurotrails" / kind


def make_private(folder: Path) -> bool:
    """Make a folder that only this user can read and write; returns `is_private`. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return is_private(folder)


def is_private(folder: Path) -> bool:
    """Whether nobody else can have written here: no link, our own, and closed to others."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
