import os
from pathlib import Path

import pytest

from runtime.memory import MemoryLimit, memory_limits

PAGES, PAGE = 1_000_000, 4096


@pytest.fixture(autouse=True)
def _four_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": PAGES, "SC_PAGE_SIZE": PAGE}.__getitem__)


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


MACHINE = MemoryLimit("machine", PAGES * PAGE, None)


def test_the_machine_alone(tmp_path: Path) -> None:
    assert memory_limits(tmp_path) == [MACHINE]


def test_v2_the_tightest_first(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container",
            "sys/fs/cgroup/memory.max": "max",
            "sys/fs/cgroup/pod/memory.max": "1000000",
            "sys/fs/cgroup/pod/container/memory.max": "2000000",
            "sys/fs/cgroup/other/memory.max": "1",
        },
    )
    groups = root / "sys/fs/cgroup/pod"
    assert memory_limits(root) == [
        MemoryLimit("cgroup v2 limit", 1_000_000, groups / "memory.max"),
        MemoryLimit("cgroup v2 limit", 2_000_000, groups / "container" / "memory.max"),
        MACHINE,
    ]


def test_v1_without_a_limit_says_a_number_beyond_any_memory(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/app",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "512",
        },
    )
    file = root / "sys/fs/cgroup/memory/app/memory.limit_in_bytes"
    assert memory_limits(root) == [MemoryLimit("cgroup v1 limit", 512, file), MACHINE]
