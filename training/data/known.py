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
    origin: str = ""
    """Where its publisher offers the files, as a sentence."""

    @property
    def remedy(self) -> str:
        """What a user can do when nothing else worked."""
        where = f" {self.origin}" if self.origin else ""
        return (
            f"Put {', '.join(self.sha256)} (plain or .gz) into a folder and name it as data.path, "
            f"or into $NEUROTRAILS_DATA/{self.folder}.{where}"
        )


def read_known_files(folder: Path, files: KnownFiles) -> dict[str, bytes]:
    """Read and verify all files of a known data set in `folder`. Raises DataError."""
    contents = {}
    for name in files.sha256:
        plain, compressed = folder / name, folder / f"{name}.gz"
        path = plain if plain.is_file() else compressed
        if not path.is_file():
            raise DataError(f"{folder} does not hold {name} (nor {name}.gz). {files.origin}".rstrip())
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
    if (own := _environment_folder(files.folder, tried)) is not None:
        return read_known_files(own, files)
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


def find_known_folder(title: str, folder: str, *, path: Path | None, remedy: str) -> Path:
    """Return the folder of a data set of many files: `path`, else $NEUROTRAILS_DATA/`folder`, else the cache.

    Its content is for the caller to verify. Raises DataUnavailable with everything that was tried.
    """
    if path is not None:
        if not path.is_dir():
            raise DataError(f"{path} is not a folder. {remedy}")
        return path
    tried: list[str] = []
    if (own := _environment_folder(folder, tried)) is not None:
        return own
    cache = cache_folder(folder)
    if cache.is_dir():
        return cache
    raise DataUnavailable(title, [*tried, f"{cache}: does not exist"], remedy)


def _environment_folder(folder: str, tried: list[str]) -> Path | None:
    """Return $NEUROTRAILS_DATA/`folder` if it exists, else add to `tried` why not."""
    root = os.environ.get("NEUROTRAILS_DATA")
    if root is None:
        tried.append("$NEUROTRAILS_DATA: not set")
    elif (Path(root) / folder).is_dir():
        return Path(root) / folder
    else:
        tried.append(f"$NEUROTRAILS_DATA: {Path(root) / folder} does not exist")
    return None


def _verify(files: KnownFiles, name: str, content: bytes, place: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != files.sha256[name]:
        raise FetchError(
            f"{place}: {name} is not the genuine file of {files.title}: sha256 {found}, not {files.sha256[name]}."
        )
