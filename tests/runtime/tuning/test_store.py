import json
import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError

from runtime.artifact import Artifact
from runtime.errors import CacheError
from runtime.tuning.records import Choice, Trial, Tuning
from runtime.tuning.store import TuningIgnored, find_tuning, tuning_path, write_tuning
from tests.runtime.tuning.conftest import setup, speed, tuning_of


@pytest.fixture
def stored(image_artifact: Artifact, cache: Path) -> Path:
    """A tuning in the cache."""
    path = tuning_path(image_artifact, 1)
    assert path.parent == cache
    write_tuning(path, tuning_of(image_artifact), "<svg/>")
    return path


def test_what_was_written_is_found(image_artifact: Artifact, stored: Path) -> None:
    assert find_tuning(image_artifact, 1) == tuning_of(image_artifact)
    assert stored.parent.stat().st_mode & 0o777 == 0o700
    assert stored.with_suffix(".svg").read_text() == "<svg/>"
    assert len(list(stored.parent.iterdir())) == 2


def test_another_artifact_core_budget_or_cpu_finds_nothing(
    image_artifact: Artifact, text_artifact: Artifact, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_tuning(image_artifact, 2) is None
        assert find_tuning(text_artifact, 1) is None
        monkeypatch.setattr("runtime.tuning.store.cpu", lambda: ("Abacus 9000", []))
        assert find_tuning(image_artifact, 1) is None
    assert stored.exists()


def change(path: Path, **fields: object) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | fields))


SETUP = {"engine": "native", "precision": "fp32", "cores": 64, "streams": 1}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tuning_version": 2}, "it has version 2, this software reads 1"),
        ({"cores": 3}, "is of artifact .* with 3 cores"),
        ({"artifact_sha256": "0" * 64}, "is of artifact 000000000000"),
        ({"fastest": None}, "fastest: "),
        ({"best": {"setup": SETUP, "rows": 1}}, "was not tried"),
        ({"trials": [{"setup": SETUP}]}, "was not tried"),
        ({"command": "rm"}, "command: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_says_something_else_is_ignored(
    image_artifact: Artifact, stored: Path, fields: dict[str, object], problem: str
) -> None:
    change(stored, **fields)
    with pytest.warns(TuningIgnored, match=f"{stored.name} is ignored: .*{problem}.*Tune again"):
        assert find_tuning(image_artifact, 1) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_ignored(image_artifact: Artifact, stored: Path, content: bytes) -> None:
    stored.write_bytes(content)
    with pytest.warns(TuningIgnored, match="it is no tuning"):
        assert find_tuning(image_artifact, 1) is None


@pytest.mark.usefixtures("stored")
def test_a_huge_file_is_not_read(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.tuning.store.MAX_TUNING_BYTES", 10)
    with pytest.warns(TuningIgnored, match="too large"):
        assert find_tuning(image_artifact, 1) is None


def test_a_folder_where_others_may_write_is_not_trusted(image_artifact: Artifact, stored: Path) -> None:
    stored.parent.chmod(0o777)
    with pytest.warns(TuningIgnored, match="not ours alone"):
        assert find_tuning(image_artifact, 1) is None
    with pytest.raises(CacheError, match="chmod 700"):
        tuning_path(image_artifact, 1)


def test_where_nothing_can_be_kept(image_artifact: Artifact, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file where a folder should be")
    with pytest.raises(CacheError, match=r"cannot be made .* Set NEUROTRAILS_CACHE"):
        tuning_path(image_artifact, 1)
    assert find_tuning(image_artifact, 1) is None
    monkeypatch.setattr("runtime.tuning.store.cache_folder", lambda _: None)
    with pytest.raises(CacheError, match="no home"):
        tuning_path(image_artifact, 1)
    assert find_tuning(image_artifact, 1) is None


def test_a_tuning_cannot_ask_for_more_cores_than_it_was_made_for(image_artifact: Artifact) -> None:
    with pytest.raises(ValidationError, match="more than the core budget of 1"):
        tuning_of(image_artifact, Trial(setup=setup(cores=2), speeds=(speed(),)))


def test_the_best_goes_before_the_fastest(image_artifact: Artifact) -> None:
    one, other = (Trial(setup=setup(name), speeds=(speed(), speed(4))) for name in ("one", "other"))
    tuning = tuning_of(image_artifact, one, other, best=Choice(setup=other.setup, rows=4))
    assert tuning.chosen == tuning.best
    assert tuning_of(image_artifact, one, other).chosen == Choice(setup=one.setup, rows=1)
    assert Tuning.model_validate_json(tuning.model_dump_json()) == tuning
