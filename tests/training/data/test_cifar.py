"""CIFAR, binary version: small files of the genuine layout, their hashes put in the genuine ones' place."""

import gzip
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.data import DataConfig, DataError, DataUnavailable, load_dataset
from training.data.cifar import CIFAR10, CIFAR100, CifarSet, from_hub, load_cifar, read_records
from training.data.fetch import store
from training.data.known import KnownFiles

RECORDS = 4


def images_and_labels(cifar: CifarSet, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What a file of this name holds: uint8 [4, 32, 32, 3] and label bytes [4, 1 or 2]."""
    generator = np.random.default_rng(list(name.encode()))
    images = generator.integers(0, 256, size=(RECORDS, 32, 32, 3), dtype=np.uint8)
    return images, generator.integers(0, 10, size=(RECORDS, len(cifar.hub_labels)), dtype=np.uint8)


def small(cifar: CifarSet) -> tuple[CifarSet, dict[str, bytes]]:
    """The set with four records in each file, and its files, written as the publisher describes them."""
    files = {}
    for name in cifar.files.sha256:
        content = bytearray()
        for image, labels in zip(*images_and_labels(cifar, name), strict=True):
            content += bytes(labels.tolist())
            for channel in range(3):  # all red values row by row, then green, then blue
                content += image[:, :, channel].tobytes()
        files[name] = bytes(content)
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return replace(cifar, files=replace(cifar.files, sha256=sha256)), files


@pytest.mark.parametrize("cifar", [CIFAR10, CIFAR100], ids=lambda cifar: cifar.name)
def test_records_become_images_and_classes(cifar: CifarSet, no_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, files = small(cifar)
    store(no_data / "data" / cifar.files.folder, files)
    monkeypatch.setenv("NEUROTRAILS_DATA", str(no_data / "data"))
    dataset = load_cifar(tiny)
    *training, test = files
    expected = [images_and_labels(cifar, name) for name in training]
    assert isinstance(dataset.train.inputs, np.ndarray)
    assert np.array_equal(dataset.train.inputs, np.concatenate([images for images, _ in expected]))
    assert dataset.train.targets.tolist() == [int(labels[-1]) for _, own in expected for labels in own]
    assert dataset.test is not None
    assert np.array_equal(np.asarray(dataset.test.inputs), images_and_labels(cifar, test)[0])
    assert dataset.image is not None
    assert (dataset.image.mode, dataset.image.height, dataset.image.width) == ("RGB", 32, 32)
    assert (dataset.name, dataset.labels, dataset.statistics) == (cifar.name, cifar.labels, cifar.statistics)


def test_the_classes_are_those_of_the_publisher() -> None:
    assert CIFAR10.labels[:3] == ("airplane", "automobile", "bird")
    assert list(CIFAR10.labels) == sorted(CIFAR10.labels)
    assert list(CIFAR100.labels) == sorted(set(CIFAR100.labels))
    assert (len(CIFAR10.labels), len(CIFAR100.labels)) == (10, 100)
    assert [CIFAR100.labels[target] for target in (0, 19, 99)] == ["apple", "cattle", "worm"]


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("cifar", [CIFAR10, CIFAR100], ids=lambda cifar: cifar.name)
def test_the_hub_format_is_written_back_into_the_same_bytes(cifar: CifarSet, tmp_path: Path) -> None:
    tiny, files = small(cifar)
    features = {"img": datasets.Image()} | {
        column: datasets.ClassLabel(names=CIFAR100.labels) for column in cifar.hub_labels
    }
    *training, test = files
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for part, names in (("train", training), ("test", [test])):
        held = [images_and_labels(cifar, name) for name in names]
        rows: dict[str, list[object]] = {"img": [Image.fromarray(image) for images, _ in held for image in images]}
        for index, column in enumerate(cifar.hub_labels):
            rows[column] = [int(labels[index]) for _, own in held for labels in own]
        split = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        split.to_parquet(tmp_path / "hub" / "data" / f"{part}-00000-of-00001.parquet")
    assert from_hub(tiny, str(tmp_path / "hub")) == files


def test_the_genuine_hashes_are_asked_for(tmp_path: Path) -> None:
    for cifar in (CIFAR10, CIFAR100):
        _, files = small(cifar)
        store(tmp_path / cifar.name, files)
        with pytest.raises(DataError, match=rf"is not the genuine file of {cifar.files.title}: sha256 "):
            load_dataset(DataConfig.model_validate({"source": cifar.name, "path": tmp_path / cifar.name}))


def test_the_pickled_version_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    with pytest.raises(DataError, match=r"does not hold data_batch_1\.bin .*binary version, cifar-10-binary\.tar\.gz"):
        load_dataset(DataConfig(source="cifar10", path=tmp_path))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    tiny, files = small(CIFAR100)
    store(tmp_path, files)
    (tmp_path / "test.bin").write_bytes(files["test.bin"][:-1])
    with pytest.raises(DataError, match=r"test\.bin is not the genuine file"):
        load_cifar(tiny, tmp_path)
    (tmp_path / "test.bin").unlink()
    compressed = gzip.compress(files["test.bin"])
    (tmp_path / "test.bin.gz").write_bytes(compressed)
    assert len(load_cifar(tiny, tmp_path).train) == RECORDS
    (tmp_path / "test.bin.gz").write_bytes(compressed[:-9])
    with pytest.raises(DataError, match=r"test\.bin\.gz cannot be read"):
        load_cifar(tiny, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"b\.bin does not consist of records of 3074 bytes: it has 0 bytes"),
        (bytes(3073), r"b\.bin does not consist of records of 3074 bytes: it has 3073 bytes"),
        (bytes(3074) + b"\x01\x64" + bytes(3072), r"a\.bin, b\.bin: record 2 has the class 100, but CIFAR-100 has 100"),
    ],
)
def test_another_layout_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_records(CIFAR100, [bytes(3074), content], ["a.bin", "b.bin"])


def test_without_data_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    script = """
from training.data import DataConfig, load_dataset
from training.data.errors import DataUnavailable
for source in ("cifar100", "tiny-imagenet", "imagenet"):
    try:
        load_dataset(DataConfig(source=source))
    except DataUnavailable as error:
        print(error)
"""
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    for words in (
        "CIFAR-100 could not be obtained",
        "Hugging Face dataset uoft-cs/cifar100: ",
        "Put train.bin, test.bin (plain or .gz) into a folder and name it as data.path, or into "
        "$NEUROTRAILS_DATA/cifar-100-binary. They are the content of the binary version, cifar-100-binary.tar.gz",
        "Tiny-ImageNet could not be obtained",
        "Hugging Face dataset zh-plus/tiny-imagenet: ",
        "Unpack tiny-imagenet-200.zip",
        "ImageNet could not be obtained",
        "Hugging Face dataset ILSVRC/imagenet-1k: ",
        "accept its terms there",
    ):
        assert words in result.stdout


def test_an_own_origin_goes_into_the_remedy() -> None:
    files = KnownFiles(title="T", folder="t", sha256={"a": "0"}, origin="Ask T.")
    with pytest.raises(DataUnavailable, match=r"\$NEUROTRAILS_DATA/t\. Ask T\."):
        raise DataUnavailable(files.title, [], files.remedy)
