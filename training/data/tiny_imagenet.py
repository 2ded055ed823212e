"""Tiny-ImageNet (Le, Yang 2015): 100,000 + 10,000 colour images of 64 x 64 pixels, 200 classes of ImageNet.

tiny-imagenet-200/wnids.txt, words.txt, train/WNID/images/*.JPEG, val/images/*.JPEG, val/val_annotations.txt

Its validation set is tested on; its test set has no published labels.
"""

from pathlib import Path

import numpy as np

from training.data.config import ImageConfig
from training.data.errors import DataError
from training.data.image_sets import (
    ImageSet,
    ListedImages,
    Listing,
    file_names,
    list_class_folders,
    read_lines,
    readable_labels,
)
from training.data.image_source import ImageFilesSource


def list_tiny_imagenet(folder: Path) -> Listing:
    """Find the images; classes are sorted by WordNet id. words.txt, which names them, may be missing."""
    classes = sorted(read_lines(folder / "wnids.txt"))
    words = {}
    if (folder / "words.txt").is_file():
        words = dict(line.split("\t", 1) for line in read_lines(folder / "words.txt") if "\t" in line)
    return Listing(
        labels=readable_labels(classes, words),
        train=list_class_folders(folder / "train", classes, below="images"),
        test=_list_validation(folder / "val", classes),
    )


def _list_validation(folder: Path, classes: list[str]) -> ListedImages:
    """Find the images that val_annotations.txt lists: file, WordNet id and a box, separated by tabs."""
    path = folder / "val_annotations.txt"
    index = {name: target for target, name in enumerate(classes)}
    present = set(file_names(folder / "images"))
    names, targets = [], []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in index:
            raise DataError(f"{path}, line {number}: not a file and one of the classes of wnids.txt: {line[:60]!r}.")
        if fields[0] not in present:
            raise DataError(f"{path}, line {number}: {folder / 'images' / fields[0]} does not exist.")
        names.append(f"images/{fields[0]}")
        targets.append(index[fields[1]])
    return ListedImages(ImageFilesSource(folder, tuple(names)), np.array(targets, dtype=np.int64))


TINY_IMAGENET = ImageSet(
    name="tiny-imagenet",
    title="Tiny-ImageNet",
    folder="tiny-imagenet-200",
    remedy="Unpack tiny-imagenet-200.zip of cs231n.stanford.edu, and name the folder tiny-imagenet-200 as data.path "
    "or put it into $NEUROTRAILS_DATA.",
    listing=list_tiny_imagenet,
    repository="zh-plus/tiny-imagenet",
    hub_test="valid",
    classes=200,
    train=100_000,
    test=10_000,
    image=ImageConfig(mode="RGB", height=64, width=64),
)
