import subprocess
import sys

import pytest

from neurotrails import main
from runtime.cores import core_budget
from runtime.engines import native_obstacle


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out
    budget = core_budget()
    assert f"cores     {budget.cores} of " in lines
    assert f"(limited by {budget.source})" in lines
    assert "engine    onnxruntime " in lines
    assert "engine    native " in lines
    assert ("auto      native, for artifacts that it supports" in lines) == (native_obstacle() is None)
    assert ("engine    deepsparse" in lines) != ("missing   engine deepsparse" in lines)
    assert "telemetry off" in lines


def test_doctor_without_extras() -> None:
    """It names what is missing and how to add it, and needs none of it."""
    script = """
import sys
from importlib import metadata
for name in ("torch", "fastapi", "deepsparse", "llvmlite"):
    sys.modules[name] = None  # what an import finds when there is no such package
real = metadata.version
def version(name):
    if name in ("torch", "fastapi"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
from neurotrails import main
sys.exit(main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "missing   engine deepsparse: DeepSparse is not installed." in done.stdout
    assert "missing   engine native: The native engine needs llvmlite: pip install 'llvmlite" in done.stdout
    assert "otherwise onnxruntime; not native: The native engine needs llvmlite" in done.stdout
    assert "pip install 'neurotrails[train]'" in done.stdout
    assert "pip install 'neurotrails[serve]'" in done.stdout
    assert done.stderr == ""
