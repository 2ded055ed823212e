"""The verb `doctor`: what this machine offers, what is installed, and how to add what is missing.

neurotrails doctor
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from runtime.cores import core_budget
from runtime.cpu import cpu
from runtime.engines import installed_engines, native_obstacle
from runtime.errors import EngineNotInstalled

EXTRAS = {"train": "torch", "serve": "fastapi", "bench": "locust"}
"""Extra -> the distribution that tells whether it is installed."""


def doctor() -> None:
    """Show CPU, cores, engines and extras, and the command that adds what is missing."""
    model, flags = cpu()
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
    print(f"auto      {_automatic()}")
    for extra, distribution in EXTRAS.items():
        try:
            print(f"extra     {extra} ({distribution} {version(distribution)})")
        except PackageNotFoundError:
            print(f"missing   extra {extra}: pip install 'neurotrails[{extra}]'")
    print()
    print(f"telemetry off (NM_DISABLE_ANALYTICS={os.environ['NM_DISABLE_ANALYTICS']} for DeepSparse)")


def _automatic() -> str:
    """Which engine `auto` takes on this machine."""
    others = "deepsparse where it is installed and its licence accepted, otherwise onnxruntime"
    obstacle = native_obstacle()
    if obstacle is None:
        return f"native, for artifacts that it supports; for others {others}"
    return f"{others}; not native: {obstacle}"
