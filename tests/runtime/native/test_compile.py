"""The cache of compiled code: what lies in it will be executed, so it must be ours and unchanged."""

from pathlib import Path

import pytest

from runtime.engines.native import compile as compiler
from runtime.engines.native.compile import cached_sets, load_library
from runtime.engines.native.machine import InstructionSet
from runtime.errors import EngineError


def _count_compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    genuine = compiler._compile

    def counted(source: str, target: InstructionSet) -> bytes:
        names.append(target.name)
        return genuine(source, target)

    monkeypatch.setattr(compiler, "_compile", counted)
    return names


def test_compiled_code_is_kept_where_only_we_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = _count_compilations(monkeypatch)
    folder = tmp_path / "cache"
    first, second = (load_library("generic", folder) for _ in range(2))
    assert compiled == ["generic"]
    assert cached_sets(folder) == ("generic",)
    assert first.addresses.keys() == second.addresses.keys()
    assert folder.stat().st_mode & 0o777 == 0o700
    (stored,) = folder.iterdir()
    assert not stored.stat().st_mode & 0o077


def test_a_tampered_object_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = _count_compilations(monkeypatch)
    folder = tmp_path / "cache"
    load_library("generic", folder)
    (stored,) = folder.iterdir()
    genuine = stored.read_bytes()
    stored.write_bytes(genuine[:-1] + bytes([genuine[-1] ^ 1]))
    load_library("generic", folder)
    assert compiled == ["generic", "generic"]
    assert stored.read_bytes() == genuine


def test_a_folder_that_others_can_write_to_is_neither_read_nor_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = _count_compilations(monkeypatch)
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    load_library("generic", folder)
    load_library("generic", folder)
    assert compiled == ["generic", "generic"]
    assert list(folder.iterdir()) == []


def test_an_instruction_set_that_the_machine_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot execute 'sse9'"):
        load_library("sse9", tmp_path)
