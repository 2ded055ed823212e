"""Published sets of image files, found on disk or fetched from the Hugging Face hub.

Their publishers give no hash of the many files: what is verified is the structure and the exact numbers of classes
and images, and that each image can be decoded when it is.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.config import ImageConfig
from training.data.dataset import Dataset, Examples, content_sha256
from training.data.errors import DataError, DataUnavailable, FetchError
from training.data.fetch import fetch_hub_dataset
from training.data.image_source import HubImagesSource, ImageFilesSource, ImageSource
from training.data.known import find_known_folder
from training.data.lazy_images import read_images, shape_of

IGNORED = ("Thumbs.db", "desktop.ini")
"""What file managers leave behind; hidden files are ignored as well."""
IN_MEMORY_BYTES = 2 * 1024**3
"""A data set whose decoded images take more than this is decoded lazily."""


@dataclass(frozen=True)
class ListedImages:
    """Encoded images and their classes."""

    source: ImageSource
    targets: NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """What a copy of a set holds, before any image is read."""

    labels: tuple[str, ...]
    train: ListedImages
    test: ListedImages


@dataclass(frozen=True)
class ImageSet:
    """A published set."""

    name: str
    title: str
    folder: str
    """Name of its folder in $NEUROTRAILS_DATA and in the cache."""
    remedy: str
    """How a user obtains the set."""
    listing: Callable[[Path], Listing]
    """Finds the images in a folder. Raises DataError."""
    repository: str
    """On the Hugging Face hub, with the columns image and label."""
    hub_test: str
    """The split there that is tested on."""
    classes: int
    train: int
    test: int
    """Number of images that are tested on."""
    image: ImageConfig
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Published mean and standard deviation of the channels."""


def load_image_set(images: ImageSet, path: Path | None = None, image: ImageConfig | None = None) -> Dataset:
    """Load a set from `path`, $NEUROTRAILS_DATA, the cache or the Hugging Face hub, at the size `image` if given.

    Raises DataError when a copy is not complete, and DataUnavailable when there is none.
    """
    try:
        folder = find_known_folder(images.title, images.folder, path=path, remedy=images.remedy)
        place, listing = str(folder), images.listing(folder)
    except DataUnavailable as unavailable:
        place = f"Hugging Face dataset {images.repository}"
        try:
            listing = list_hub_images(images, images.repository)
        except FetchError as error:
            raise DataUnavailable(images.title, [*unavailable.tried, f"{place}: {error}"], images.remedy) from error
    return load_listing(images, listing, place, image or images.image)


def load_listing(images: ImageSet, listing: Listing, place: str, image: ImageConfig) -> Dataset:
    """Load what `place` was found to hold. Raises DataError when it is not the complete set."""
    found = (len(listing.labels), len(listing.train.targets), len(listing.test.targets))
    if found != (images.classes, images.train, images.test):
        raise DataError(
            f"{place} holds {found[0]:,} classes, {found[1]:,} images to train on and {found[2]:,} to test on; "
            f"{images.title} has {images.classes:,}, {images.train:,} and {images.test:,}. "
            "Complete it, or use a part of it as source image-folder."
        )
    digests: dict[str, str] = {}
    parts = read_parts({"train": listing.train, "test": listing.test}, image)
    for part, (examples, hashes) in parts.items():
        rows = enumerate(zip(hashes, examples.targets, strict=True))
        digests |= {f"{part}/{row:07}/{target}": own.tobytes().hex() for row, (own, target) in rows}
    return Dataset(
        name=images.name,
        modality="image",
        labels=listing.labels,
        train=parts["train"][0],
        test=parts["test"][0],
        source=f"{images.title} (structure and counts verified)",
        sha256=content_sha256(digests),
        image=image,
        statistics=images.statistics,
    )


def read_parts(parts: Mapping[str, ListedImages], image: ImageConfig) -> dict[str, tuple[Examples, NDArray[np.uint8]]]:
    """Read the images of all parts of a data set: the examples of each, and the SHA-256 of each file, uint8 [N, 32].

    All parts are decoded lazily or none is, so that `split` finds what occurs in two of them. Raises DataError.
    """
    count = sum(len(listed.targets) for listed in parts.values())
    lazily = count * math.prod(shape_of(image)) > IN_MEMORY_BYTES
    read = {}
    for part, listed in parts.items():
        images, hashes = read_images(listed.source, image, lazily=lazily)
        read[part] = (Examples(images, listed.targets), hashes)
    return read


def list_hub_images(images: ImageSet, repository: str) -> Listing:
    """Fetch a set from the Hugging Face hub; its images stay encoded, in the files that `datasets` keeps."""
    splits = fetch_hub_dataset(repository, encoded="image")
    names = tuple(splits["train"].features["label"].names)

    def listed(part: str) -> ListedImages:
        if part not in splits:
            raise FetchError(f"it has no split {part}")
        rows = splits[part]
        targets = np.asarray(rows["label"][:], dtype=np.int64)
        if len(targets) and not 0 <= targets.min() <= targets.max() < len(names):
            raise FetchError(f"the split {part} has rows without a class")
        return ListedImages(HubImagesSource(rows, f"{images.repository} {part}"), targets)

    return Listing(readable_labels(names, {name: name for name in names}), listed("train"), listed(images.hub_test))


def list_class_folders(folder: Path, classes: Sequence[str], below: str = "") -> ListedImages:
    """Find the image files in `folder`/CLASS/`below`, class by class, ordered by name. Raises DataError."""
    names: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        relative = f"{name}/{below}" if below else name
        own = file_names(folder / relative)
        names += [f"{relative}/{file}" for file in own]
        targets += [target] * len(own)
    return ListedImages(ImageFilesSource(folder, tuple(names)), np.array(targets, dtype=np.int64))


def file_names(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted; hidden ones and those of file managers are left out. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.")
    return sorted(
        path.name
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name not in IGNORED and path.is_file()
    )


def readable_labels(classes: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """Name each class by the first of its comma-separated `words`, and where two share it, by the class as well."""
    first = [words.get(name, name).split(",")[0].strip() or name for name in classes]
    count = Counter(first)
    return tuple(word if count[word] == 1 else f"{word} ({name})" for word, name in zip(first, classes, strict=True))


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank. Raises DataError."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
