from pathlib import Path

import pytest

from runtime.caches import cache_folder, is_private, make_private


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEUROTRAILS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_the_nearest_wish_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_folder("native") == Path("/home/ada/.cache/neurotrails/native")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder("native") == Path("/var/cache/neurotrails/native")
    monkeypatch.setenv("NEUROTRAILS_CACHE", "/ours")
    assert cache_folder("tuning") == Path("/ours/tuning")


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(homeless))
    assert cache_folder("native") is None


def test_only_what_is_ours_alone_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    assert not is_private(folder)
    assert make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(folder)
    assert not is_private(tmp_path / "link")
    folder.chmod(0o750)
    assert not make_private(folder), "a folder that others can read was made private behind their back"
