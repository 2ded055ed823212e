"""How much memory this process may use: what the machine has, or less where a control group says so."""

import os
from dataclasses import dataclass
from pathlib import Path

from runtime.cgroup import group_folders, read_limit


@dataclass(frozen=True)
class MemoryLimit:
    """A limit on memory and the rule that sets it (`machine`, `cgroup v1 limit` or `cgroup v2 limit`)."""

    source: str
    bytes: int
    file: Path | None
    """Where a limit of a group lies; None for the machine."""


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """All limits that there are, the tightest first; empty where the system does not say how much memory it has.

    `root` is the root of the file system that holds /proc and /sys.
    """
    groups = [
        ("cgroup v2 limit", folder / "memory.max") for folder in group_folders(root, "", ("",))
    ] + [
        ("cgroup v1 limit", folder / "memory.limit_in_bytes") for folder in group_folders(root, "memory", ("memory",))
    ]  # fmt: skip
    limits = _machine()
    most = limits[0].bytes if limits else None
    for source, file in groups:
        content = read_limit(file)  # v2 writes `max` for none, v1 a number larger than any memory
        if content.isdecimal() and (most is None or int(content) < most):
            limits.append(MemoryLimit(source, int(content), file))
    return sorted(limits, key=lambda limit: limit.bytes)


def _machine() -> list[MemoryLimit]:
    try:
        return [MemoryLimit("machine", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None)]
    except (AttributeError, OSError, ValueError):  # not on every system
        return []
