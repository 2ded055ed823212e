"""A user's own images: one folder per class, read exactly as the server reads what clients post."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.config import ImageConfig
from training.data.dataset import Dataset, content_sha256
from training.data.errors import DataError
from training.data.image_sets import IGNORED, ListedImages, read_parts
from training.data.image_source import ImageFilesSource


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
    listed = {"train": _list_images(train_path, labels, every_class=True)}
    if test_path is not None:
        listed["test"] = _list_images(test_path, labels, every_class=False)
    parts = read_parts(listed, image)
    digests = {
        f"{part}/{listed[part].source.name_inside(row)}": own.tobytes().hex()
        for part, (_, hashes) in parts.items()
        for row, own in enumerate(hashes)
    }
    return Dataset(
        name=path.resolve().name,
        modality="image",
        labels=labels,
        train=parts["train"][0],
        test=parts["test"][0] if "test" in parts else None,
        source=f"image folder {path.resolve().name}",
        sha256=content_sha256(digests),
        image=image,
    )


def _list_images(folder: Path, labels: Sequence[str], *, every_class: bool) -> ListedImages:
    """Find all images of one part. Raises DataError when there are none, or `every_class` needs some and lacks them."""
    unknown = set(_subfolders(folder)) - set(labels)
    if unknown:
        raise DataError(f"{folder} holds the class {min(unknown)!r}, which the training data lacks.")
    files = [(target, path) for target, label in enumerate(labels) for path in _image_files(folder / label)]
    empty = set(range(len(labels))) - {target for target, _ in files}
    if every_class and empty:
        raise DataError(f"{folder / labels[min(empty)]} holds no image.")
    if not files:
        raise DataError(f"{folder} holds no image.")
    source = ImageFilesSource(folder, tuple(path.relative_to(folder).as_posix() for _, path in files))
    return ListedImages(source, np.array([target for target, _ in files], dtype=np.int64))


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
