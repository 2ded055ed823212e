import os
from pathlib import Path

import pytest

from runtime.cpu import FLAGS
from runtime.doctor.machine import FEATURES, Features, look_at_machine


def _root(folder: Path, cpuinfo: str) -> Path:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/cpuinfo").write_text(cpuinfo)
    (folder / "proc/self/cgroup").write_text("0::/app\n")
    (folder / "sys/fs/cgroup/app").mkdir(parents=True)
    (folder / "sys/fs/cgroup/app/cpu.max").write_text("250000 100000\n")
    (folder / "sys/fs/cgroup/app/memory.max").write_text("1048576\n")
    return folder


def test_limits_with_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    machine = look_at_machine(_root(tmp_path, "model name\t: A Chip\nflags\t\t: fpu avx2 fma avx512f avx512_vnni\n"))
    assert (machine.cpu, machine.cores, machine.cores_source) == ("A Chip", 2, "cgroup v2 quota")
    assert [limit.cores for limit in machine.core_limits] == [4, 2.5]
    assert machine.core_limits[1].file == tmp_path / "sys/fs/cgroup/app/cpu.max"
    assert machine.memory_limits[0].bytes == 1048576
    assert machine.features == (
        Features("fp32 vectors", ("avx2", "fma", "avx512f"), ()),
        Features("int8 products", ("avx512_vnni",), ("avx_vnni", "amx_int8")),
        Features("bf16 products", (), ("avx512_bf16", "amx_bf16")),
    )


def test_an_arm_cpu_is_not_said_to_lack_what_others_have(tmp_path: Path) -> None:
    machine = look_at_machine(_root(tmp_path, "Features\t: fp asimd asimddp bf16\n"))
    assert machine.features == (
        Features("fp32 vectors", ("asimd",), ("sve",)),
        Features("int8 products", ("asimddp",), ("i8mm",)),
        Features("bf16 products", ("bf16",), ()),
    )


def test_every_known_flag_but_one_that_is_only_a_switch_has_a_use() -> None:
    assert {flag for flags in FEATURES.values() for flag in flags} == set(FLAGS) - {"amx_tile"}
