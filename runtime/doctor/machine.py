"""What this machine offers to this process."""

from dataclasses import dataclass
from pathlib import Path

from runtime.cores import CoreLimit, core_budget, core_limits
from runtime.cpu import cpu
from runtime.memory import MemoryLimit, memory_limits

FEATURES = {
    "fp32 vectors": ("avx2", "fma", "avx512f", "asimd", "sve"),
    "int8 products": ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"),
    "bf16 products": ("avx512_bf16", "amx_bf16", "bf16"),
}
"""What an engine may compute fast -> CPU features that it needs one or more of."""
ARM = frozenset(("asimd", "sve", "asimddp", "i8mm", "bf16"))


@dataclass(frozen=True)
class Features:
    """CPU features for one kind of arithmetic."""

    kind: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    """Those that other CPUs of this kind have."""


@dataclass(frozen=True)
class Machine:
    """CPU, cores and memory."""

    cpu: str
    features: tuple[Features, ...]
    cores: int
    """The core budget."""
    cores_source: str
    core_limits: tuple[CoreLimit, ...]
    memory_limits: tuple[MemoryLimit, ...]
    """The tightest first."""


def look_at_machine(root: Path = Path("/")) -> Machine:
    """Ask the system; `root` is the root of the file system that holds /proc and /sys."""
    model, flags = cpu(root / "proc/cpuinfo")
    budget = core_budget(root)
    is_arm = bool(ARM & set(flags))
    features = []
    for kind, names in FEATURES.items():
        here = [name for name in names if (name in ARM) == is_arm]
        present = tuple(name for name in here if name in flags)
        features.append(Features(kind, present, tuple(name for name in here if name not in flags)))
    limits, memory = tuple(core_limits(root)), tuple(memory_limits(root))
    return Machine(model, tuple(features), budget.cores, budget.source, limits, memory)
