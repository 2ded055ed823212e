import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from neurotrails import main
from runtime.cores import core_budget
from runtime.doctor.software import LICENCES
from runtime.engines import ENGINES, installed_engines, native_obstacle
from runtime.engines.native.compile import instruction_sets, load_library
from runtime.errors import EngineNotInstalled

TELLTALES = {"train": "torch", "serve": "fastapi", "bench": "locust"}


def _has(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out
    budget = core_budget()
    assert f"cores     {budget.cores} of " in lines
    assert f", limited by {budget.source}" in lines
    assert "engine    onnxruntime " in lines
    assert "engine    native " in lines
    assert ("measured here; otherwise native, for artifacts that it supports" in lines) == (native_obstacle() is None)
    assert ("engine    deepsparse" in lines) != ("missing   engine deepsparse" in lines)
    for extra, distribution in TELLTALES.items():
        if not _has(distribution):
            assert f"pip install 'neurotrails[{extra}]'" in lines


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = installed_engines()
    installed = {engine["name"]: engine for engine in document["engines"]}
    assert set(installed) | {engine["name"] for engine in document["missing_engines"]} == set(found)
    for name, engine in found.items():
        if not isinstance(engine, EngineNotInstalled):
            assert installed[name]["version"] == engine.version
            assert installed[name]["precisions"] == {key: list(value) for key, value in engine.precisions.items()}
    for extra in document["extras"]:
        if extra["name"] in TELLTALES:
            assert (TELLTALES[extra["name"]] in extra["missing"]) == (not _has(TELLTALES[extra["name"]]))
    assert document["machine"]["cores"] == core_budget().cores
    assert {one["name"]: one["installed"] for one in document["telemetry"]}["onnxruntime"] is True


def test_every_engine_has_a_licence() -> None:
    assert set(ENGINES) <= set(LICENCES)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_caches(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path))
    slowest = list(instruction_sets())[-1]
    load_library(slowest, tmp_path / "native")
    (tmp_path / "native").chmod(mode)
    size = sum(path.stat().st_size for path in (tmp_path / "native").iterdir())
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out
    assert f"{tmp_path / 'tuning'}, not yet there" in lines
    if mode == 0o700:
        assert f"{tmp_path / 'native'}, 1 files of {size:,} bytes, ready for {slowest}" in lines
    else:
        assert f"{tmp_path / 'native'}, not used: others may have written there; chmod 700 it" in lines


def test_without_a_home_there_are_no_caches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.delenv("NEUROTRAILS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(nobody))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.count("NEUROTRAILS_CACHE names a folder") == 2


def test_telemetry_is_off_in_a_process_that_did_not_say_so() -> None:
    """Whatever was set outside, after the engines are imported it is off."""
    script = """
import os, sys
os.environ.pop("NM_DISABLE_ANALYTICS", None)
from runtime.doctor.software import engines, telemetry
names = {one.name for one in engines()}
states = {one.name: one.state for one in telemetry()}
assert "NM_DISABLE_ANALYTICS=True" in states["deepsparse"], states
assert os.environ["NM_DISABLE_ANALYTICS"] == "True"
print(len(states))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 5


def test_doctor_without_extras() -> None:
    """It names what is missing and how to add it, and needs none of it."""
    script = """
import sys
from importlib import metadata
for name in ("torch", "fastapi", "deepsparse", "llvmlite"):
    sys.modules[name] = None  # what an import finds when there is no such package
real = metadata.version
def version(name):
    if name in ("torch", "fastapi", "datasets"):
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
    assert "lacks datasets, torch: pip install 'neurotrails[train]'" in done.stdout
    assert "lacks fastapi: pip install 'neurotrails[serve]'" in done.stdout
    assert done.stderr == ""
