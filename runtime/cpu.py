"""What the CPU can do, by the names of /proc/cpuinfo."""

import platform
from pathlib import Path

FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""CPU features that decide how fast an engine is; `asimd` is NEON."""

CPUINFO = Path("/proc/cpuinfo")


def cpu(cpuinfo: Path = CPUINFO) -> tuple[str, list[str]]:
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
