"""The core budget: how many cores this process may really use. Computed once, passed to every engine explicitly."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CoreBudget:
    """A number of whole cores and the rule that set it (`affinity`, `cgroup v1 quota` or `cgroup v2 quota`)."""

    cores: int
    source: str


def core_budget(root: Path = Path("/")) -> CoreBudget:
    """Return min(affinity mask, cgroup v1/v2 CPU quota), at least 1.

    A fractional quota is rounded down: a thread too many is throttled, which costs more than a core left idle.
    `root` is the root of the file system that holds /proc and /sys.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [(float(affinity), "affinity")]
    limits += [(quota, "cgroup v2 quota") for quota in _v2_quotas(root)]
    limits += [(quota, "cgroup v1 quota") for quota in _v1_quotas(root)]
    cores, source = min(limits, key=lambda limit: limit[0])
    return CoreBudget(max(1, int(cores)), source)


def _cgroup_paths(root: Path, controller: str) -> list[str]:
    """Paths of this process's cgroup in the hierarchy of `controller` ('' is cgroup v2), from /proc/self/cgroup."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    entries = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    return [path for _, controllers, path in entries if controller in controllers.split(",")]


def _with_parents(base: Path, path: str) -> list[Path]:
    folder = base / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == base or base in parent.parents)]


def _v2_quotas(root: Path) -> list[float]:
    quotas = []
    for path in _cgroup_paths(root, ""):
        for folder in _with_parents(root / "sys/fs/cgroup", path):
            fields = _read(folder / "cpu.max").split()
            if len(fields) == 2 and fields[0] != "max":
                quotas.append(int(fields[0]) / int(fields[1]))
    return quotas


def _v1_quotas(root: Path) -> list[float]:
    quotas = []
    for path in _cgroup_paths(root, "cpu"):
        for base in ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"):
            for folder in _with_parents(root / base, path):
                quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
                if quota and period and int(quota) > 0:
                    quotas.append(int(quota) / int(period))
    return quotas


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
