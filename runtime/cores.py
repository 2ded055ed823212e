"""The core budget: how many cores this process may really use. Computed once, passed to every engine explicitly."""

import os
from dataclasses import dataclass
from pathlib import Path

from runtime.cgroup import group_folders, read_limit


@dataclass(frozen=True)
class CoreBudget:
    """A number of whole cores and the rule that set it (`affinity`, `cgroup v1 quota` or `cgroup v2 quota`)."""

    cores: int
    source: str


@dataclass(frozen=True)
class CoreLimit:
    """One of the limits that the budget is the least of."""

    source: str
    """The rule, as in `CoreBudget`."""
    cores: float
    """Cores that it allows; a quota may allow a fraction."""
    file: Path | None
    """Where a quota lies; None for the affinity mask."""


def core_budget(root: Path = Path("/")) -> CoreBudget:
    """Return min(affinity mask, cgroup v1/v2 CPU quota), at least 1.

    A fractional quota is rounded down: a thread too many is throttled, which costs more than a core left idle.
    `root` is the root of the file system that holds /proc and /sys.
    """
    tightest = min(core_limits(root), key=lambda limit: limit.cores)
    return CoreBudget(max(1, int(tightest.cores)), tightest.source)


def core_limits(root: Path = Path("/")) -> list[CoreLimit]:
    """All limits that there are: the affinity mask first, then quotas, those of inner groups before outer ones."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [CoreLimit("affinity", float(affinity), None), *_v2_quotas(root), *_v1_quotas(root)]


def _v2_quotas(root: Path) -> list[CoreLimit]:
    quotas = []
    for folder in group_folders(root, "", ("",)):
        fields = read_limit(folder / "cpu.max").split()
        if len(fields) == 2 and fields[0] != "max":
            quotas.append(CoreLimit("cgroup v2 quota", int(fields[0]) / int(fields[1]), folder / "cpu.max"))
    return quotas


def _v1_quotas(root: Path) -> list[CoreLimit]:
    quotas = []
    for folder in group_folders(root, "cpu", ("cpu", "cpu,cpuacct")):
        file = folder / "cpu.cfs_quota_us"
        quota, period = read_limit(file), read_limit(folder / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            quotas.append(CoreLimit("cgroup v1 quota", int(quota) / int(period), file))
    return quotas
