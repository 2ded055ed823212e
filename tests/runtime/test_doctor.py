import subprocess
import sys
from pathlib import Path

import pytest

from neurotrails import main
from runtime.cores import core_budget
from runtime.doctor import cpu


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out
    budget = core_budget()
    assert f"cores     {budget.cores} of " in lines
    assert f"(limited by {budget.source})" in lines
    assert "engine    onnxruntime " in lines
    assert ("engine    deepsparse" in lines) != ("missing   engine deepsparse" in lines)
    assert "telemetry off" in lines


def test_doctor_without_extras() -> None:
    """It names what is missing and how to add it, and needs none of it."""
    script = """
import sys
from importlib import metadata
for name in ("torch", "fastapi", "deepsparse"):
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
    assert "pip install 'neurotrails[train]'" in done.stdout
    assert "pip install 'neurotrails[serve]'" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor : 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu sse avx2 fma avx512f avx512_vnni avx512_bf16\n"
            "processor : 1\nmodel name\t: another\nflags\t\t: none\n",
            ("AMD EPYC 9R14", ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"]),
        ),
        (
            "processor : 0\nmodel name : Neoverse\nFeatures\t: fp asimd asimddp i8mm bf16 sve\n",
            ("Neoverse", ["asimd", "asimddp", "i8mm", "bf16", "sve"]),
        ),
    ],
)
def test_cpu(tmp_path: Path, text: str, expected: tuple[str, list[str]]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu(tmp_path / "cpuinfo") == expected


def test_cpu_without_cpuinfo(tmp_path: Path) -> None:
    model, flags = cpu(tmp_path / "cpuinfo")
    assert model
    assert flags == []
