"""What lies on the search path, and which version is the latest."""

import json
import random
import shutil
from pathlib import Path

import pytest

from server.catalog import LATEST, Catalog, version_order
from server.errors import ServingError
from tests.artifacts import write_tiny_image_artifact


def alter(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    write_tiny_image_artifact(folder, name="tiny", version="1")
    return folder


def copy(artifact: Path, to: Path, **fields: object) -> Path:
    shutil.copytree(artifact, to)
    if fields:
        alter(to, **fields)
    return to


def test_versions_in_order() -> None:
    ascending = ["1", "1.0", "1.0-b", "1.0-rc1", "1.2", "1.9", "1.10", "2", "2024-05-01", "2024-10-01"]
    shuffled = random.Random(0).sample(ascending, len(ascending))
    assert sorted(shuffled, key=version_order) == ascending
    assert sorted(["v10", "v9", "a", "1"], key=version_order) == ["a", "v9", "v10", "1"]
    assert version_order("01") != version_order("1")


def test_folders_of_versions_and_artifacts_directly_below_several_roots(tmp_path: Path, artifact: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    direct = copy(artifact, one / "any-name", name="other", version="7")
    copy(artifact, one / "tiny" / "9", version="9")
    newest = copy(artifact, two / "tiny" / "10", version="10")
    copy(artifact, one / "tiny" / ".11.partial-x", version="11")
    copy(artifact, one / ".hidden")
    (one / "notes.txt").write_text("no model")
    (one / "empty").mkdir()
    found = Catalog((one, two)).scan()
    assert found.problems == ()
    assert set(found.versions) == {"other", "tiny"}
    assert found.newest_first("tiny") == ("10", "9")
    assert found.find("tiny", LATEST).folder == newest
    assert found.find("tiny", "9").folder == one / "tiny" / "9"
    assert (found.find("other", LATEST).version, found.find("other", "7").folder) == ("7", direct)


def test_what_is_not_there_is_named(tmp_path: Path, artifact: Path) -> None:
    copy(artifact, tmp_path / "tiny" / "1")
    found = Catalog((tmp_path,)).scan()
    with pytest.raises(ServingError, match=r"no model 'huge' .* the models are: tiny\."):
        found.find("huge", LATEST)
    with pytest.raises(ServingError, match=r"no version '2' of model 'tiny' .* the versions are: 1\."):
        found.find("tiny", "2")
    with pytest.raises(ServingError, match=r"'nowhere' does not exist"):
        Catalog((tmp_path, Path("nowhere"))).scan()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": "3"}, "its folder must be named tiny/3"),
        ({"name": "other"}, "its folder must be named other/2"),
        ({"schema_version": 99}, "schema version 99"),
        ({"labels": []}, "labels"),
    ],
)
def test_a_broken_newest_version_is_not_passed_over(
    tmp_path: Path, artifact: Path, fields: dict[str, object], reason: str
) -> None:
    copy(artifact, tmp_path / "tiny" / "1")
    copy(artifact, tmp_path / "tiny" / "2", **{"version": "2", **fields})
    found = Catalog((tmp_path,)).scan()
    assert found.newest_first("tiny") == ("2", "1")
    for version in ("2", LATEST):
        with pytest.raises(ServingError, match=reason):
            found.find("tiny", version)
    assert found.find("tiny", "1").problem is None


def test_no_version_is_called_latest(tmp_path: Path, artifact: Path) -> None:
    copy(artifact, tmp_path / "tiny", version=LATEST)
    with pytest.raises(ServingError, match="no version may be called 'latest'"):
        Catalog((tmp_path,)).scan().find("tiny", LATEST)


def test_of_two_artifacts_with_one_name_and_version_neither_is_taken(tmp_path: Path, artifact: Path) -> None:
    copy(artifact, tmp_path / "one" / "tiny")
    copy(artifact, tmp_path / "two" / "tiny" / "1")
    found = Catalog((tmp_path / "one", tmp_path / "two")).scan()
    with pytest.raises(ServingError, match=r"one/tiny' and '.*two/tiny/1' both hold a model named 'tiny'"):
        found.find("tiny", "1")


def test_an_artifact_without_a_name_is_a_problem_of_its_own(tmp_path: Path, artifact: Path) -> None:
    copy(artifact, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{")
    found = Catalog((tmp_path,)).scan()
    assert set(found.versions) == {"tiny"}
    [problem] = found.problems
    assert "bad" in problem


def test_a_scan_sees_what_has_changed(tmp_path: Path, artifact: Path) -> None:
    catalog = Catalog((tmp_path,))
    folder = copy(artifact, tmp_path / "tiny" / "1")
    before = catalog.scan().find("tiny", "1")
    assert catalog.scan().find("tiny", "1") is before  # its manifest was not read again
    weights = folder / "head_1.onnx"
    weights.write_bytes(weights.read_bytes())
    touched = catalog.scan().find("tiny", "1")
    assert touched == before
    assert touched.stamp != before.stamp
    alter(folder, description="another one")
    assert catalog.scan().find("tiny", "1") != before
    shutil.rmtree(folder)
    assert catalog.scan().versions == {}
