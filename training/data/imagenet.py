"""ImageNet (ILSVRC 2012): 1,281,167 + 50,000 colour images of many sizes, 1,000 classes.

train/WNID/*.JPEG and val/WNID/*.JPEG, or all validation images in val/ beside LOC_val_solution.csv; the same below
ILSVRC/Data/CLS-LOC, as Kaggle packs it. Its validation set is tested on; its test set has no published labels.
"""

import csv
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

SOLUTION = "LOC_val_solution.csv"
"""Kaggle's table of validation images: ImageId,PredictionString, the latter WordNet ids, each followed by a box."""
NAMES = "LOC_synset_mapping.txt"
"""Kaggle's list of WordNet ids and the words for them, separated by a space."""


def list_imagenet(folder: Path) -> Listing:
    """Find the images; classes are sorted by WordNet id, and named by LOC_synset_mapping.txt if that is there."""
    packed = folder / "ILSVRC" / "Data" / "CLS-LOC"
    images = packed if packed.is_dir() else folder
    for name in ("train", "val"):
        if not (images / name).is_dir():
            raise DataError(f"{images} does not hold the folder {name}. {REMEDY}")
    classes = sorted(path.name for path in (images / "train").iterdir() if path.is_dir() and path.name[0] != ".")
    words = {}
    if (folder / NAMES).is_file():
        words = dict(line.split(" ", 1) for line in read_lines(folder / NAMES) if " " in line)
    return Listing(
        labels=readable_labels(classes, words),
        train=list_class_folders(images / "train", classes),
        test=_list_validation(folder, images / "val", classes),
    )


def _list_validation(folder: Path, images: Path, classes: list[str]) -> ListedImages:
    if any(path.is_dir() and path.name[0] != "." for path in images.iterdir()):
        return list_class_folders(images, classes)
    path = folder / SOLUTION
    if not path.is_file():
        raise DataError(
            f"{images} holds images without classes, and {path} does not exist. Move them into a folder for each "
            f"class, or put Kaggle's {SOLUTION} there."
        )
    index = {name: target for target, name in enumerate(classes)}
    present = set(file_names(images))
    listed: list[tuple[str, int]] = []
    for number, row in enumerate(csv.reader(read_lines(path)[1:]), start=2):
        found = row[1].split(" ")[0] if len(row) > 1 else ""
        if found not in index:
            raise DataError(f"{path}, line {number}: not an image and one of the classes of train: {row}.")
        if f"{row[0]}.JPEG" not in present:
            raise DataError(f"{path}, line {number}: {images / row[0]}.JPEG does not exist.")
        listed.append((f"{row[0]}.JPEG", index[found]))
    listed.sort()
    source = ImageFilesSource(images, tuple(name for name, _ in listed))
    return ListedImages(source, np.array([target for _, target in listed], dtype=np.int64))


REMEDY = (
    "Obtain ILSVRC 2012 (image-net.org, or the competition imagenet-object-localization-challenge on Kaggle), and name "
    "the folder that holds train/ and val/ as data.path or link to it as $NEUROTRAILS_DATA/imagenet. For the Hugging "
    "Face hub, accept its terms there and run `hf auth login`."
)
IMAGENET = ImageSet(
    name="imagenet",
    title="ImageNet",
    folder="imagenet",
    remedy=REMEDY,
    listing=list_imagenet,
    repository="ILSVRC/imagenet-1k",
    hub_test="validation",
    classes=1_000,
    train=1_281_167,
    test=50_000,
    image=ImageConfig(mode="RGB", height=224, width=224, resize_shorter=256),
    statistics=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
