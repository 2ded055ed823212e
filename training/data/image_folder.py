"""A user's own images: one folder per class, read exactly as the server reads what clients post."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.config import ImageConfig
from training.data.dataset import Dataset, Examples, content_sha256
from training.data.errors import DataError
from training.data.image_sets import IGNORED
from training.data.image_source import ImageFilesSource
from training.data.lazy_images import read_images


def load_image_folder(path: Path, test_path: Path | None, image: ImageConfig) -> Dataset:
    """Load `path`/CLASS/**/FILE, or `path`/train/CLASS and `path`/test/CLASS when both exist; classes sorted by name.

    `test_path` holds the test images of the same classes. Raises DataError naming the file or folder.
    """
    train_path = path
    if (path / "train").is_dir() and (path / "test").is_dir():
        if test_path is not None:
            raise DataError(f"{path} holds train and test folders, so test_path {test_path} is one too many.")
        train_path, test_path = path / "train", path / "test"
    labels = _subfolders(train_path)
    if len(labels) < 2:
        raise DataError(
            f"{train_path} holds {len(labels)} subfolder(s); it needs one for each of at least two classes."
        )
    digests: dict[str, str] = {}
    train = _read_examples(train_path, "train", labels, image, digests)
    test = _read_examples(test_path, "test", labels, image, digests) if test_path else None
    return Dataset(
        name=path.resolve().name,
        modality="image",
        labels=labels,
        train=train,
        test=test,
        source=f"image folder {path.resolve().name}",
        sha256=content_sha256(digests),
        image=image,
    )


def _read_examples(
    folder: Path, part: str, labels: Sequence[str], image: ImageConfig, digests: dict[str, str]
) -> Examples:
    """Find all images of one part, and decode them if they fit into memory; add the hash of each to `digests`."""
    unknown = set(_subfolders(folder)) - set(labels)
    if unknown:
        raise DataError(f"{folder} holds the class {min(unknown)!r}, which the training data lacks.")
    files = [(target, path) for target, label in enumerate(labels) for path in _image_files(folder / label)]
    for target, label in enumerate(labels):
        if part == "train" and not any(own == target for own, _ in files):
            raise DataError(f"{folder / label} holds no image.")
    if not files:
        raise DataError(f"{folder} holds no image.")
    source = ImageFilesSource(folder, tuple(path.relative_to(folder).as_posix() for _, path in files))
    images, hashes = read_images(source, image)
    digests |= {f"{part}/{name}": own.tobytes().hex() for name, own in zip(source.names, hashes, strict=True)}
    return Examples(images, np.array([target for target, _ in files], dtype=np.int64))


def _subfolders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.")
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _image_files(folder: Path) -> list[Path]:
    """All files below one class folder, ordered by name; hidden ones and those of file managers are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in IGNORED
        and not any(name.startswith(".") for name in path.relative_to(folder).parts)
    )
