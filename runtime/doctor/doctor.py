"""The verb `doctor`.

neurotrails doctor
neurotrails doctor --json | jq .machine
"""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from os import cpu_count
from typing import Any

from pydantic import TypeAdapter

from runtime.doctor.machine import Machine, look_at_machine
from runtime.doctor.software import (
    Cache,
    Extra,
    InstalledEngine,
    MissingEngine,
    Telemetry,
    automatic,
    caches,
    engines,
    extras,
    telemetry,
)


@dataclass(frozen=True)
class Diagnosis:
    """All that is shown."""

    version: str
    python: str
    system: str
    machine: Machine
    engines: tuple[InstalledEngine, ...]
    missing_engines: tuple[MissingEngine, ...]
    auto: str
    """Which engine `auto` takes."""
    extras: tuple[Extra, ...]
    telemetry: tuple[Telemetry, ...]
    caches: tuple[Cache, ...]


def doctor(*, json: bool = False) -> None:
    """Show CPU, cores, memory, engines and extras, the command that adds what is missing, telemetry and caches.

    Args:
        json: Print JSON.
    """
    diagnosis = diagnose()
    if json:
        print(TypeAdapter(dict[str, Any]).dump_json(asdict(diagnosis), indent=2).decode())
    else:
        print("\n".join(render(diagnosis)))


def diagnose() -> Diagnosis:
    """Look at everything."""
    found = engines()
    return Diagnosis(
        version=version("neurotrails"),
        python=platform.python_version(),
        system=platform.platform(),
        machine=look_at_machine(),
        engines=tuple(one for one in found if isinstance(one, InstalledEngine)),
        missing_engines=tuple(one for one in found if isinstance(one, MissingEngine)),
        auto=automatic(),
        extras=tuple(extras()),
        telemetry=tuple(telemetry()),
        caches=tuple(caches()),
    )


def render(diagnosis: Diagnosis) -> list[str]:
    """Lines for people: what it is about, then what there is to say."""
    return [
        f"neurotrails {diagnosis.version}, Python {diagnosis.python}, {diagnosis.system}",
        "",
        *_machine(diagnosis.machine),
        "",
        *(line for engine in diagnosis.engines for line in _engine(engine)),
        *(f"missing   engine {engine.name}: {engine.remedy}" for engine in diagnosis.missing_engines),
        f"auto      {diagnosis.auto}",
        "",
        *(_extra(extra) for extra in diagnosis.extras),
        "",
        *(f"telemetry {one.name}: {one.state if one.installed else 'not installed'}" for one in diagnosis.telemetry),
        "",
        *(f"cache     {_cache(cache)}" for cache in diagnosis.caches),
    ]


def _machine(machine: Machine) -> Iterator[str]:
    yield f"CPU       {machine.cpu}"
    for features in machine.features:
        lacks = f"; not {', '.join(features.absent)}" if features.absent else ""
        yield f"          {features.kind}: {', '.join(features.present) or 'none known'}{lacks}"
    yield f"cores     {machine.cores} of {cpu_count()}, limited by {machine.cores_source}"
    for limit in machine.core_limits:
        yield f"          {limit.source}: {limit.cores:g} cores{f' in {limit.file}' if limit.file else ''}"
    if len(machine.core_limits) == 1:
        yield "          no cgroup quota"
    if machine.memory_limits:
        tightest = machine.memory_limits[0]
        yield f"memory    {_gib(tightest.bytes)}, limited by {tightest.source}"
        for memory in machine.memory_limits:
            yield f"          {memory.source}: {_gib(memory.bytes)}{f' in {memory.file}' if memory.file else ''}"


def _engine(engine: InstalledEngine) -> Iterator[str]:
    yield f"engine    {engine.name} {engine.version}, {engine.licence}"
    yield f"          {_precisions(engine.precisions)}"
    yield from (f"          {note}" for note in engine.notes)


def _precisions(precisions: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{stored} artifacts in {' or '.join(executed)}" for stored, executed in precisions.items())


def _extra(extra: Extra) -> str:
    if not extra.missing:
        return f"extra     {extra.name}, {extra.purpose}: complete"
    return f"missing   extra {extra.name}, {extra.purpose}: lacks {', '.join(extra.missing)}: {extra.command}"


def _cache(cache: Cache) -> str:
    what = f"{cache.kind}, {cache.purpose}"
    if cache.folder is None:
        return f"{what}: none, as there is no home to keep it in; NEUROTRAILS_CACHE names a folder"
    if not cache.exists:
        return f"{what}: {cache.folder}, not yet there"
    if not cache.private:
        return f"{what}: {cache.folder}, not used: others may have written there; chmod 700 it"
    state = f"{cache.files:,} files of {cache.bytes:,} bytes"
    if cache.kind == "native":
        ready = f"ready for {', '.join(cache.ready)}" if cache.ready else "none for this version on this machine yet"
        return f"{what}: {cache.folder}, {state}, {ready}"
    return f"{what}: {cache.folder}, {state}"


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB"
