from pathlib import Path

import pytest

from runtime.cpu import cpu


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
