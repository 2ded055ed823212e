"""Labelled examples, and their division into the parts that training needs.

dataset = load_dataset(DataConfig(source="fashion-mnist"))
parts = split(dataset, held_out=0.05, seed=0)      # fit, select, calibrate, report, test
parts.fit.inputs                                   # uint8 [51000, 28, 28]
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from training.data.config import ImageConfig
from training.data.errors import DataError
from training.data.lazy_images import LazyImages


@dataclass(frozen=True, eq=False)
class Examples:
    """N labelled inputs."""

    inputs: NDArray[np.uint8] | LazyImages | tuple[str, ...]
    """Images, uint8 [N, height, width] or [N, height, width, 3], or those that are decoded on access; or N texts."""
    targets: NDArray[np.int64]
    """Indices into the labels, int64 [N]."""

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(f"{len(self.inputs)} inputs do not go with {len(self.targets)} targets.")

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the examples at `rows`, int64 [R], in that order."""
        if isinstance(self.inputs, tuple):
            return type(self)(tuple(self.inputs[row] for row in rows), self.targets[rows])
        if isinstance(self.inputs, LazyImages):
            return type(self)(self.inputs.take(rows), self.targets[rows])
        return type(self)(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled data set, as its publisher divided it."""

    name: str
    modality: Literal["image", "text"]
    labels: tuple[str, ...]
    """Class names; a target is an index into them."""
    train: Examples
    test: Examples | None
    source: str
    """Where the bytes come from, the same on every machine; goes into an artifact's provenance."""
    sha256: str
    """Hash of the raw content, see `content_sha256`."""
    image: ImageConfig | None = None
    """Images only: the mode and size to which an image file has to be brought to look like `inputs`."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Images only: published mean and standard deviation of each channel, of pixels / 255, if there are any."""


@dataclass(frozen=True, eq=False)
class Split:
    """The parts of a data set that training uses. No input occurs in two of them."""

    fit: Examples
    """To fit weights."""
    select: Examples
    """To select checkpoints."""
    calibrate: Examples
    """To calibrate temperatures, the order of heads and int8 ranges."""
    report: Examples
    """To report early-exit tables and to pass gates."""
    test: Examples | None
    """Touched once, at the end."""


def split(dataset: Dataset, *, held_out: float, seed: int) -> Split:
    """Hold out three disjoint, stratified parts of the training data, each `held_out` of its rows.

    The same seed gives the same rows everywhere: rows are ordered by a keyed hash of their content, not by a random
    generator whose stream may change. All three parts have equal counts per class, apportioned by largest remainder.
    Inputs that occur more than once stay in `fit` together, so they never land in two parts; training rows whose
    input also occurs in the test data are dropped. Raises DataError if there is too little data.
    """
    if not 0 < held_out < 1 / 3:
        raise DataError(f"held_out is {held_out}; it must lie between 0 and 1/3, because three parts are held out.")
    tested = set(_keys(dataset.test, seed)) if dataset.test else set()
    keys = _keys(dataset.train, seed)
    occurrences = Counter(keys)
    rows = np.array([row for row, key in enumerate(keys) if key not in tested], dtype=np.int64)
    classes = [rows[dataset.train.targets[rows] == index] for index in range(len(dataset.labels))]
    unique = [sorted((row for row in own if occurrences[keys[row]] == 1), key=keys.__getitem__) for own in classes]
    quotas = _quotas([len(own) for own in classes], [len(own) for own in unique], held_out)

    def part(index: int) -> NDArray[np.int64]:
        chosen = (own[index * quota : (index + 1) * quota] for own, quota in zip(unique, quotas, strict=True))
        return np.sort(np.fromiter(chain.from_iterable(chosen), dtype=np.int64))

    select, calibrate, report = part(0), part(1), part(2)
    fit = np.setdiff1d(rows, np.concatenate([select, calibrate, report]))
    train = dataset.train
    return Split(train.take(fit), train.take(select), train.take(calibrate), train.take(report), dataset.test)


def content_sha256(files: Mapping[str, str]) -> str:
    """Hash a set of files, name -> sha256: what `sha256sum *` prints (in C locale), hashed by sha256."""
    listing = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(listing.encode()).hexdigest()


def _keys(examples: Examples, seed: int) -> list[bytes]:
    """A hash of each input, keyed by the seed: equal for equal inputs, in random order otherwise.

    Of images that are decoded on access, inputs are equal whose files are.
    """
    key = str(seed).encode()

    def keyed(content: bytes | memoryview) -> bytes:
        return hashlib.blake2b(content, key=key, digest_size=16).digest()

    match examples.inputs:
        case tuple() as texts:
            return [keyed(text.encode()) for text in texts]
        case LazyImages() as images:
            return [keyed(digest.data) for digest in images.digests]
        case pixels:
            return [keyed(image.data) for image in pixels]


def _quotas(rows: list[int], available: list[int], held_out: float) -> list[int]:
    """How many rows of each class go into one held-out part; their sum is exactly round(held_out * sum(rows)).

    A class gives at most a third of its `available` rows, and keeps at least one row to fit.
    """
    total = round(held_out * sum(rows))
    shares = [held_out * count for count in rows]
    room = [(unique - (unique == count)) // 3 for unique, count in zip(available, rows, strict=True)]
    quotas = [min(int(share), most) for share, most in zip(shares, room, strict=True)]
    by_remainder = sorted(range(len(rows)), key=lambda index: (quotas[index] - shares[index], index))
    for index in [index for index in by_remainder if quotas[index] < room[index]][: total - sum(quotas)]:
        quotas[index] += 1
    if sum(quotas) != total or total == 0:
        raise DataError(
            f"{sum(rows)} training rows, of which {sum(available)} occur once, are too few to hold out three parts "
            f"of {held_out:g} each with every class still in the rest; add data or change held_out."
        )
    return quotas
