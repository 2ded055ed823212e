"""What is installed, what is missing, and what it keeps."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from runtime.caches import cache_folder, is_private
from runtime.engines import installed_engines, native_obstacle
from runtime.errors import EngineNotInstalled

LICENCES = {
    "deepsparse": "Neural Magic DeepSparse Community: evaluation, not production",
    "native": "Apache-2.0, as all of this project",
    "onnxruntime": "MIT",
    "openvino": "Apache-2.0",
}
EXTRAS = {
    "train": "to train, evaluate and export",
    "serve": "to serve over HTTP",
    "bench": "to measure",
    "robustness": "for the corruptions of evaluate",
}
"""Extra -> what it is for. Those of engines are shown as engines."""
CACHES = {"native": "machine code of the native engine", "tuning": "what tune measured"}
"""Kind of cache -> what lies in it."""


@dataclass(frozen=True)
class InstalledEngine:
    """An engine that can be used here."""

    name: str
    version: str
    licence: str
    precisions: Mapping[str, tuple[str, ...]]
    """Precision of an artifact -> those in which it is executed."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MissingEngine:
    """An engine that cannot be used here."""

    name: str
    licence: str
    remedy: str
    """What is missing and the command that adds it."""


@dataclass(frozen=True)
class Extra:
    """A group of optional packages."""

    name: str
    purpose: str
    missing: tuple[str, ...]
    """Packages that are not installed; none: the extra is complete."""
    command: str
    """What installs it."""


@dataclass(frozen=True)
class Telemetry:
    """Something of others that would report to its makers."""

    name: str
    installed: bool
    state: str
    """How it is kept from it."""


@dataclass(frozen=True)
class Cache:
    """A folder of things that can be made anew."""

    kind: str
    purpose: str
    folder: Path | None
    """None where there is no home for it; NEUROTRAILS_CACHE names one."""
    exists: bool
    private: bool
    """Whether nobody else can have written there. Otherwise it is not used."""
    files: int
    bytes: int
    ready: tuple[str, ...]
    """Of the native engine: instruction sets of this machine whose code need not be compiled."""


def engines() -> list[InstalledEngine | MissingEngine]:
    """All engines by name; importing them turns the telemetry of their makers off."""
    found: list[InstalledEngine | MissingEngine] = []
    for name, engine in sorted(installed_engines().items()):
        licence = LICENCES[name]
        if isinstance(engine, EngineNotInstalled):
            found.append(MissingEngine(name, licence, str(engine)))
        else:
            found.append(InstalledEngine(name, engine.version, licence, engine.precisions, engine.notes))
    return found


def extras() -> list[Extra]:
    """Extras of this project, with what each lacks."""
    needed = requires("neurotrails") or []
    return [
        Extra(name, purpose, _missing(needed, name), f"pip install 'neurotrails[{name}]'")
        for name, purpose in EXTRAS.items()
    ]


def automatic() -> str:
    """Which engine `auto` takes on this machine."""
    return f"what tune chose, for artifacts that it has measured here; otherwise {_untuned()}"


def _untuned() -> str:
    others = "deepsparse where it is installed and its licence accepted, otherwise onnxruntime"
    obstacle = native_obstacle()
    if obstacle is None:
        return f"native, for artifacts that it supports; for others {others}"
    return f"{others}; not native: {obstacle}"


def telemetry() -> list[Telemetry]:
    """What of others phones home unless it is told not to, and how it is told. Call it after `engines`."""
    deepsparse = f"off: NM_DISABLE_ANALYTICS={os.environ.get('NM_DISABLE_ANALYTICS', 'True')}, set before its import"
    return [
        Telemetry("deepsparse", _is_installed("deepsparse"), deepsparse),
        Telemetry("onnxruntime", _is_installed("onnxruntime"), "off: disable_telemetry_events() at its import"),
        Telemetry("openvino", _is_installed("openvino"), "off: imported without its package openvino_telemetry"),
        Telemetry("huggingface_hub", _is_installed("huggingface-hub"), "off: HF_HUB_DISABLE_TELEMETRY=1 in training"),
        Telemetry("sparseml", _is_installed("sparseml"), "off: NM_DISABLE_ANALYTICS=True, set before its import"),
    ]


def caches() -> list[Cache]:
    """The caches of this user."""
    return [_cache(kind, purpose, cache_folder(kind)) for kind, purpose in CACHES.items()]


def _cache(kind: str, purpose: str, folder: Path | None) -> Cache:
    if folder is None or not folder.is_dir():
        return Cache(kind, purpose, folder, False, False, 0, 0, ())
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    ready = _ready(folder) if kind == "native" else ()
    return Cache(kind, purpose, folder, True, is_private(folder), len(sizes), sum(sizes), ready)


def _ready(folder: Path) -> tuple[str, ...]:
    try:
        from runtime.engines.native.compile import cached_sets
    except ImportError:  # llvmlite is missing; the engine says so
        return ()
    return cached_sets(folder)


def _missing(needed: Sequence[str], extra: str) -> tuple[str, ...]:
    """Packages of an extra that are not installed, by the metadata of this project."""
    of_extra = [line for line in needed if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    names = [match[0] for line in of_extra if (match := re.match(r"[A-Za-z0-9._-]+", line))]
    return tuple(name for name in names if not _is_installed(name))


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
