"""The verb `doctor`: what this machine offers, what is installed, and how to add what is missing.

neurotrails doctor
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime.cores import core_budget
from runtime.engines import installed_engines
from runtime.errors import EngineNotInstalled

FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""CPU features that decide how fast an engine is, by the names of /proc/cpuinfo; `asimd` is NEON."""

EXTRAS = {"train": "torch", "serve": "fastapi", "bench": "locust"}
"""Extra -> the distribution that tells whether it is installed."""


def doctor() -> None:
    """Show CPU, cores, engines and extras, and the command that adds what is missing."""
    model, flags = cpu(Path("/proc/cpuinfo"))
    budget = core_budget()
    print(f"neurotrails {version('neurotrails')}, Python {platform.python_version()}, {platform.platform()}")
    print(f"CPU       {model}")
    print(f"features  {' '.join(flags) or 'none known'}")
    print(f"cores     {budget.cores} of {os.cpu_count()} (limited by {budget.source})")
    print()
    for name, found in installed_engines().items():
        if isinstance(found, EngineNotInstalled):
            print(f"missing   engine {name}: {found}")
        else:
            print(f"engine    {name} {found.version}")
            for note in found.notes:
                print(f"          {note}")
    for extra, distribution in EXTRAS.items():
        try:
            print(f"extra     {extra} ({distribution} {version(distribution)})")
        except PackageNotFoundError:
            print(f"missing   extra {extra}: pip install 'neurotrails[{extra}]'")
    print()
    print(f"telemetry off (NM_DISABLE_ANALYTICS={os.environ['NM_DISABLE_ANALYTICS']} for DeepSparse)")


def cpu(cpuinfo: Path) -> tuple[str, list[str]]:
    """Model name, and which of `FLAGS` the CPU has, from /proc/cpuinfo; elsewhere what Python knows, and none."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    present = set(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name") or platform.machine(), [flag for flag in FLAGS if flag in present]
