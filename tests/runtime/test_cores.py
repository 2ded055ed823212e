import os
from pathlib import Path

import pytest

from runtime.cores import CoreBudget, CoreLimit, core_budget, core_limits

AFFINITY = 8


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(AFFINITY)), raising=False)


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


def test_affinity_alone(tmp_path: Path) -> None:
    assert core_budget(tmp_path) == CoreBudget(AFFINITY, "affinity")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"app/cpu.max": "200000 100000"}, (2, "cgroup v2 quota")),
        ({"app/cpu.max": "max 100000"}, (8, "affinity")),
        ({"app/cpu.max": "1600000 100000"}, (8, "affinity")),
        ({"app/cpu.max": "250000 100000"}, (2, "cgroup v2 quota")),  # a fraction is rounded down
        ({"app/cpu.max": "50000 100000"}, (1, "cgroup v2 quota")),  # but never to none
        ({"app/cpu.max": "150000 50000"}, (3, "cgroup v2 quota")),
        ({"cpu.max": "400000 100000"}, (4, "cgroup v2 quota")),  # inside a container its own group is the root
        ({"app/cpu.max": "max 100000", "cpu.max": "500000 100000"}, (5, "cgroup v2 quota")),
    ],
)
def test_v2(tmp_path: Path, files: dict[str, str], expected: tuple[int, str]) -> None:
    tree = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    root = _tree(tmp_path, {"proc/self/cgroup": "0::/app", **tree})
    assert core_budget(root) == CoreBudget(*expected)


def test_v2_nested_groups_are_bound_by_the_tightest(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/pod/container",
            "sys/fs/cgroup/slice/cpu.max": "600000 100000",
            "sys/fs/cgroup/slice/pod/cpu.max": "300000 100000",
            "sys/fs/cgroup/slice/pod/container/cpu.max": "500000 100000",
            "sys/fs/cgroup/other/cpu.max": "100000 100000",
        },
    )
    assert core_budget(root) == CoreBudget(3, "cgroup v2 quota")
    folder = root / "sys/fs/cgroup/slice"
    assert core_limits(root) == [
        CoreLimit("affinity", 8, None),
        CoreLimit("cgroup v2 quota", 5, folder / "pod/container/cpu.max"),
        CoreLimit("cgroup v2 quota", 3, folder / "pod/cpu.max"),
        CoreLimit("cgroup v2 quota", 6, folder / "cpu.max"),
    ]


def test_v2_path_outside_the_namespace(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"proc/self/cgroup": "0::/../elsewhere", "sys/fs/cgroup/cpu.max": "200000 100000"})
    assert core_budget(root) == CoreBudget(2, "cgroup v2 quota")


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("group", ["docker/abc/", "docker/", ""])
def test_v1(tmp_path: Path, folder: str, group: str) -> None:
    base = f"sys/fs/cgroup/{folder}/{group}"
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/other\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x:y",
            f"{base}cpu.cfs_quota_us": "350000",
            f"{base}cpu.cfs_period_us": "100000",
        },
    )
    assert core_budget(root) == CoreBudget(3, "cgroup v1 quota")


def test_v1_without_quota(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert core_budget(root) == CoreBudget(AFFINITY, "affinity")


def test_hybrid_hierarchies_are_bound_by_the_tightest(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/app\n0::/app",
            "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/app/cpu.max": "600000 100000",
        },
    )
    assert core_budget(root) == CoreBudget(2, "cgroup v1 quota")


def test_this_machine() -> None:
    assert 1 <= core_budget().cores <= AFFINITY
