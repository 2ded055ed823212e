"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32 x 32 pixels, 10 or 100 classes.

The binary version is read; the pickled Python version never is, because a pickle may run any code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from training.data.config import ImageConfig
from training.data.dataset import Dataset, Examples, content_sha256
from training.data.errors import DataError, FetchError
from training.data.fetch import fetch_hub_dataset
from training.data.known import KnownFiles, obtain_known_files

PIXELS = 3 * 32 * 32
"""Bytes of an image: 32 x 32 red values row by row, then the green and the blue ones."""

ORIGIN = "They are the content of the binary version, {archive}, of www.cs.toronto.edu/~kriz/cifar.html."

CIFAR100_LABELS = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
"""The fine classes, sorted."""


@dataclass(frozen=True)
class CifarSet:
    """One of the two sets. A record of a file is its label bytes, of which the last is the class, and the pixels."""

    name: str
    files: KnownFiles
    """Of the unpacked binary version; all but the last are the training data."""
    labels: tuple[str, ...]
    repository: str
    hub_labels: tuple[str, ...]
    """Columns of the data set on the Hugging Face hub that hold the label bytes."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and standard deviation of the channels of the training data, as commonly published."""


CIFAR10 = CifarSet(
    name="cifar10",
    files=KnownFiles(
        title="CIFAR-10",
        folder="cifar-10-batches-bin",
        sha256={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        origin=ORIGIN.format(archive="cifar-10-binary.tar.gz"),
    ),
    labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    repository="uoft-cs/cifar10",
    hub_labels=("label",),
    statistics=((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
)
CIFAR100 = CifarSet(
    name="cifar100",
    files=KnownFiles(
        title="CIFAR-100",
        folder="cifar-100-binary",
        sha256={
            "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
        origin=ORIGIN.format(archive="cifar-100-binary.tar.gz"),
    ),
    labels=CIFAR100_LABELS,
    repository="uoft-cs/cifar100",
    hub_labels=("coarse_label", "fine_label"),
    statistics=((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
)


def load_cifar(cifar: CifarSet, path: Path | None = None) -> Dataset:
    """Load the genuine, complete set from `path`, $NEUROTRAILS_DATA, the cache or the Hugging Face hub.

    Every file is verified by its sha256, wherever it came from. Raises DataError.
    """
    route = (f"Hugging Face dataset {cifar.repository}", partial(from_hub, cifar, cifar.repository))
    files = obtain_known_files(cifar.files, path=path, system=(), routes=(route,))
    *training, test = cifar.files.sha256
    return Dataset(
        name=cifar.name,
        modality="image",
        labels=cifar.labels,
        train=read_records(cifar, [files[name] for name in training], training),
        test=read_records(cifar, [files[test]], [test]),
        source=f"{cifar.files.title}, binary version",
        sha256=content_sha256(cifar.files.sha256),
        image=ImageConfig(mode="RGB", height=32, width=32),
        statistics=cifar.statistics,
    )


def read_records(cifar: CifarSet, contents: Sequence[bytes], names: Sequence[str]) -> Examples:
    """Read the records of some files, one file after the other. Raises DataError naming a file of another layout."""
    length = len(cifar.hub_labels) + PIXELS
    for content, name in zip(contents, names, strict=True):
        if not content or len(content) % length:
            raise DataError(f"{name} does not consist of records of {length} bytes: it has {len(content)} bytes.")
    records = np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(-1, length)
    targets = records[:, -PIXELS - 1].astype(np.int64)
    if targets.max() >= len(cifar.labels):
        row = int(np.argmax(targets >= len(cifar.labels)))
        raise DataError(
            f"{', '.join(names)}: record {row} has the class {targets[row]}, "
            f"but {cifar.files.title} has {len(cifar.labels)} classes."
        )
    planes = records[:, -PIXELS:].reshape(-1, 3, 32, 32)
    return Examples(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), targets)


def from_hub(cifar: CifarSet, repository: str) -> dict[str, bytes]:
    """Fetch the set from the Hugging Face hub and write its PNG images back into the binary version's format."""
    splits = fetch_hub_dataset(repository)
    *training, test = cifar.files.sha256
    files: dict[str, bytes] = {}
    for part, names in (("train", training), ("test", [test])):
        rows = splits[part]
        if len(rows) % len(names):
            raise FetchError(f"the split {part} has {len(rows)} rows, which do not fill {len(names)} files")
        images = np.stack([np.asarray(image, dtype=np.uint8) for image in rows["img"]])
        labels = np.array([rows[column][:] for column in cifar.hub_labels], dtype=np.uint8).T
        records = np.concatenate([labels, images.transpose(0, 3, 1, 2).reshape(len(rows), PIXELS)], axis=1)
        files |= {name: own.tobytes() for name, own in zip(names, np.split(records, len(names)), strict=True)}
    return files
