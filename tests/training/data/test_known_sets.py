"""The genuine data sets, and every place they may come from."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from training.data import DataConfig, DataError, Dataset, DataUnavailable, load_dataset
from training.data import fashion_mnist as fashion
from training.data.errors import FetchError
from training.data.fetch import cache_folder
from training.data.known import KnownFiles, obtain_known_files, read_known_files

TINY = KnownFiles(title="Tiny", folder="tiny", sha256={"a": hashlib.sha256(b"A").hexdigest()})


def put(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(content)
    return folder


def works() -> dict[str, bytes]:
    return {"a": b"A"}


def breaks() -> dict[str, bytes]:
    raise FetchError("the line is dead")


def test_fashion_mnist_is_complete(fashion_mnist: Dataset) -> None:
    test = fashion_mnist.test
    assert test is not None
    for part, count in ((fashion_mnist.train, 60_000), (test, 10_000)):
        assert isinstance(part.inputs, np.ndarray)
        assert part.inputs.shape == (count, 28, 28)
        assert part.inputs.dtype == np.uint8
        assert part.inputs.flags.writeable
        assert part.targets.dtype == np.int64
        assert np.bincount(part.targets).tolist() == [count // 10] * 10
    assert [fashion_mnist.labels[target] for target in test.targets[:4]] == [
        "Ankle boot",
        "Pullover",
        "Trouser",
        "Trouser",
    ]
    assert "Debian package dataset-fashion-mnist" in fashion_mnist.source
    assert fashion_mnist.image is not None
    assert fashion_mnist.image.mode == "L"


def test_newsgroups_is_complete(newsgroups: Dataset) -> None:
    assert newsgroups.test is not None
    assert (len(newsgroups.train), len(newsgroups.test)) == (11_293, 7_528)
    assert len(newsgroups.labels) == 20
    assert list(newsgroups.labels) == sorted(newsgroups.labels)
    assert np.bincount(newsgroups.train.targets)[newsgroups.labels.index("rec.autos")] == 594
    assert np.bincount(newsgroups.test.targets)[newsgroups.labels.index("rec.autos")] == 395
    for text in newsgroups.train.inputs:
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert str(newsgroups.train.inputs[0]).startswith("alt atheism faq")


def test_a_named_folder_is_used_compressed_or_not(fashion_mnist: Dataset, no_data: Path) -> None:
    assert fashion_mnist.test is not None
    folder = no_data / "mine"
    folder.mkdir()
    for prefix, part in (("train", fashion_mnist.train), ("t10k", fashion_mnist.test)):
        assert isinstance(part.inputs, np.ndarray)
        images = gzip.compress(fashion.write_idx(part.inputs), compresslevel=1)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(fashion.write_idx(part.targets.astype(np.uint8)))
    loaded = load_dataset(DataConfig(source="fashion-mnist", path=folder))
    assert loaded.sha256 == fashion_mnist.sha256
    assert np.array_equal(loaded.train.inputs, fashion_mnist.train.inputs)

    whole = (folder / "train-images-idx3-ubyte.gz").read_bytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        load_dataset(DataConfig(source="fashion-mnist", path=folder))
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="does not hold train-images-idx3-ubyte"):
        load_dataset(DataConfig(source="fashion-mnist", path=folder))


def test_a_named_folder_with_other_content_is_an_error_not_another_source(no_data: Path) -> None:
    folder = put(no_data / "mine", b"B")
    put(cache_folder("tiny"), b"A")
    with pytest.raises(DataError, match="a is not the genuine file of Tiny: sha256 df7e"):
        obtain_known_files(TINY, path=folder, system=(), routes=[("route", works)])


def test_the_environment_comes_before_the_system_and_the_cache(no_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(no_data / "data" / "tiny", b"B")
    put(cache_folder("tiny"), b"A")
    monkeypatch.setenv("NEUROTRAILS_DATA", str(no_data / "data"))
    with pytest.raises(DataError, match="not the genuine file"):
        obtain_known_files(TINY, path=None, system=(), routes=())
    monkeypatch.setenv("NEUROTRAILS_DATA", str(no_data))  # without the set: the search goes on
    assert obtain_known_files(TINY, path=None, system=(), routes=()) == {"a": b"A"}


def test_a_damaged_cache_is_reported_and_fetched_anew(no_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = put(no_data / "system", b"?")
    cache = put(cache_folder("tiny"), b"?")
    assert obtain_known_files(TINY, path=None, system=[system], routes=[("one", breaks), ("two", works)]) == {"a": b"A"}
    report = capsys.readouterr().err
    assert f"Not used: {system / 'a'}" in report
    assert f"Not used: {cache / 'a'}" in report
    assert read_known_files(cache, TINY) == {"a": b"A"}
    assert [path.name for path in cache.iterdir()] == ["a"]


def test_a_route_that_brings_other_content_is_not_cached(no_data: Path) -> None:
    with pytest.raises(DataUnavailable) as caught:
        obtain_known_files(
            TINY, path=None, system=[no_data / "none"], routes=[("one", breaks), ("two", lambda: {"a": b"B"})]
        )
    assert not cache_folder("tiny").exists()
    assert len(caught.value.tried) == 5
    message = str(caught.value)
    for part in (
        "Tiny could not be obtained",
        "$NEUROTRAILS_DATA: not set",
        f"{no_data / 'none'}: does not exist",
        f"{cache_folder('tiny')}: does not exist",
        "one: the line is dead",
        "two: a is not the genuine file of Tiny",
        "Put a (plain or .gz) into a folder and name it as data.path, or into $NEUROTRAILS_DATA/tiny.",
    ):
        assert part in message


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01\0\0\0\x02a", b"\0\0\x09\x01\0\0\0\x01a"])
def test_a_broken_idx_file_is_an_error(content: bytes) -> None:
    with pytest.raises(DataError, match="x is not an IDX file"):
        fashion.read_idx(content, "x")
