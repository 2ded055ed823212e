"""Known data sets: the places where their files may lie, and the sha256 that makes them the genuine ones."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.errors import DataError, DataUnavailable, FetchError
from training.data.fetch import cache_folder, say, store

Route = tuple[str, Callable[[], dict[str, bytes]]]
"""A way to fetch the files, and what to call it."""


@dataclass(frozen=True)
class KnownFiles:
    """The files of a known data set."""

    title: str
    folder: str
    """Name of its folder in $NEUROTRAILS_DATA and in the cache."""
    sha256: Mapping[str, str]
    """File name -> sha256 of its content, uncompressed. On disk a file may carry .gz and be compressed by gzip."""

    @property
    def remedy(self) -> str:
        """What a user can do when nothing else worked."""
        return (
            f"Put {', '.join(self.sha256)} (plain or .gz) into a folder and name it as data.path, "
            f"or into $NEUROTRAILS_DATA/{self.folder}."
        )


def read_known_files(folder: Path, files: KnownFiles) -> dict[str, bytes]:
    """Read and verify all files of a known data set in `folder`. Raises DataError."""
    contents = {}
    for name in files.sha256:
        plain, compressed = folder / name, folder / f"{name}.gz"
        path = plain if plain.is_file() else compressed
        if not path.is_file():
            raise DataError(f"{folder} does not hold {name} (nor {name}.gz).")
        try:
            raw = path.read_bytes()
            contents[name] = raw if path == plain else gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        _verify(files, name, contents[name], str(path))
    return contents


def obtain_known_files(
    files: KnownFiles, *, path: Path | None, system: Sequence[Path], routes: Sequence[Route]
) -> dict[str, bytes]:
    """Return the verified contents of a known data set: file name -> bytes.

    A folder named by the user is used as it is, or is an error. Then, in this order: $NEUROTRAILS_DATA, the `system`
    folders, the cache, and the `routes`, whose result is cached. Raises DataUnavailable with everything that was tried.
    """
    if path is not None:
        return read_known_files(path, files)
    tried: list[str] = []
    root = os.environ.get("NEUROTRAILS_DATA")
    if root is None:
        tried.append("$NEUROTRAILS_DATA: not set")
    elif (Path(root) / files.folder).is_dir():
        return read_known_files(Path(root) / files.folder, files)
    else:
        tried.append(f"$NEUROTRAILS_DATA: {Path(root) / files.folder} does not exist")
    cache = cache_folder(files.folder)
    for folder in (*system, cache):
        if not folder.is_dir():
            tried.append(f"{folder}: does not exist")
            continue
        try:
            return read_known_files(folder, files)
        except DataError as error:
            tried.append(f"{folder}: {error}")
            say(f"Not used: {error}")
    for title, fetch in routes:
        try:
            contents = fetch()
            for name in files.sha256:
                _verify(files, name, contents[name], title)
        except FetchError as error:
            tried.append(f"{title}: {error}")
            continue
        store(cache, {name: contents[name] for name in files.sha256})
        say(f"{files.title} is now in {cache}")
        return contents
    raise DataUnavailable(files.title, tried, files.remedy)


def _verify(files: KnownFiles, name: str, content: bytes, place: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != files.sha256[name]:
        raise FetchError(
            f"{place}: {name} is not the genuine file of {files.title}: sha256 {found}, not {files.sha256[name]}."
        )
