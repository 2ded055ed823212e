"""Tiny-ImageNet and ImageNet: small trees of the genuine layout, their counts put in the genuine ones' place."""

import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from runtime.preprocess import ImagePreprocessor
from training.data import DataConfig, DataError, Dataset, ImageConfig, LazyImages, load_dataset, split
from training.data.errors import FetchError
from training.data.image_sets import ImageSet, list_hub_images, load_image_set, load_listing, readable_labels
from training.data.imagenet import IMAGENET
from training.data.tiny_imagenet import TINY_IMAGENET

WNIDS = ("n01443537", "n02012849", "n03126707")
WORDS = ("goldfish, Carassius auratus", "crane", "crane")
LABELS = ("goldfish", "crane (n02012849)", "crane (n03126707)")
TINY = replace(TINY_IMAGENET, classes=3, train=12, test=6)
SMALL = replace(IMAGENET, classes=3, train=12, test=6)
SIZE = ImageConfig(mode="RGB", height=16, width=16, resize_shorter=20)


def save(path: Path, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path, format="JPEG")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Four training images of each class, two to test on; wnids.txt is not sorted, as in the genuine set."""
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for target, name in enumerate(WNIDS):
        for index in range(4):
            save(root / "train" / name / "images" / f"{name}_{index}.JPEG", 10 * target + index)
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t62\t62\n")
    for index in range(6):
        save(root / "val" / "images" / f"val_{index}.JPEG", 100 + index)
        lines.append(f"val_{index}.JPEG\t{WNIDS[(2 * index + 1) % 3]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    words = "".join(f"{name}\t{words}\n" for name, words in zip(WNIDS, WORDS, strict=True))
    (root / "words.txt").write_text(f"n00001740\tentity\n{words}")
    return root


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    """Images of many sizes, four of each class to train on and two in val/WNID."""
    root = tmp_path / "imagenet"
    for target, name in enumerate(WNIDS):
        for index in range(4):
            size = (30 + 11 * index, 70 - 13 * index)
            save(root / "train" / name / f"{name}_{index}.JPEG", 10 * target + index, size)
        for index in range(2):
            number = 2 * target + index + 1
            save(root / "val" / name / f"ILSVRC2012_val_{number:08}.JPEG", 100 + number, (40, 50))
    return root


def decoded(path: Path, image: ImageConfig) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    reader = ImagePreprocessor(image.preprocessing((0.0,) * 3, (1.0,) * 3))
    return np.asarray(reader.resize(reader.decode(path.read_bytes())))


def flatten(root: Path) -> None:
    """Put all validation images beside each other, with Kaggle's tables, in Kaggle's folders."""
    rows = ["ImageId,PredictionString"]
    for path in sorted((root / "val").glob("*/*.JPEG"), reverse=True):
        rows.append(f"{path.stem},{path.parent.name} 111 108 370 297 {path.parent.name} 1 2 3 4 ")
        path.rename(root / "val" / path.name)
    for name in WNIDS:
        (root / "val" / name).rmdir()
    (root / "ILSVRC" / "Data" / "CLS-LOC").mkdir(parents=True)
    for part in ("train", "val"):
        (root / part).rename(root / "ILSVRC" / "Data" / "CLS-LOC" / part)
    (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    lines = [f"{name} {words}" for name, words in zip(WNIDS, WORDS, strict=True)]
    (root / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n")


def test_tiny_imagenet_has_its_images_classes_and_names(tiny: Path) -> None:
    dataset = load_image_set(TINY, tiny)
    assert dataset.labels == LABELS
    assert dataset.train.targets.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    expected = [decoded(path, TINY.image) for path in sorted((tiny / "train").glob("*/images/*.JPEG"))]
    assert isinstance(dataset.train.inputs, np.ndarray)
    assert np.array_equal(dataset.train.inputs, np.stack(expected))
    assert dataset.test is not None
    assert dataset.test.targets.tolist() == [1, 0, 2, 1, 0, 2]
    assert np.array_equal(np.asarray(dataset.test.inputs)[5], decoded(tiny / "val/images/val_5.JPEG", TINY.image))
    assert dataset.source == "Tiny-ImageNet (structure and counts verified)"
    (tiny / "words.txt").unlink()
    assert load_image_set(TINY, tiny).labels == WNIDS


def test_the_environment_and_the_cache_are_searched(
    tiny: Path, ilsvrc: Path, no_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROTRAILS_DATA", str(tiny.parent))
    assert len(load_image_set(TINY).train) == 12
    monkeypatch.delenv("NEUROTRAILS_DATA")
    cache = no_data / "cache" / "datasets"
    cache.mkdir(parents=True)
    ilsvrc.rename(cache / "imagenet")
    assert len(load_image_set(SMALL, image=SIZE).train) == 12


def test_imagenet_is_read_in_both_layouts(ilsvrc: Path) -> None:
    folders = load_image_set(SMALL, ilsvrc, SIZE)
    assert folders.labels == WNIDS
    assert folders.test is not None
    assert folders.test.targets.tolist() == [0, 0, 1, 1, 2, 2]
    expected = [decoded(path, SIZE) for path in sorted((ilsvrc / "train").glob("*/*.JPEG"))]
    assert np.array_equal(np.asarray(folders.train.inputs), np.stack(expected))
    flatten(ilsvrc)
    kaggle = load_image_set(SMALL, ilsvrc, SIZE)
    assert kaggle.labels == LABELS
    assert kaggle.test is not None
    assert kaggle.test.targets.tolist() == folders.test.targets.tolist()
    assert np.array_equal(np.asarray(kaggle.test.inputs), np.asarray(folders.test.inputs))
    assert (folders.image, folders.statistics) == (SIZE, IMAGENET.statistics)


def test_the_hash_follows_the_content(ilsvrc: Path, tmp_path: Path) -> None:
    before = load_image_set(SMALL, ilsvrc, SIZE).sha256
    moved = ilsvrc.rename(tmp_path / "moved")
    assert load_image_set(SMALL, moved, SIZE).sha256 == before
    save(moved / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG", 999)
    assert load_image_set(SMALL, moved, SIZE).sha256 != before


def test_what_does_not_fit_into_memory_is_decoded_on_access(
    ilsvrc: Path, no_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = load_image_set(SMALL, ilsvrc, SIZE)
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 10_000)
    lazy = load_image_set(SMALL, ilsvrc, SIZE)
    assert isinstance(lazy.train.inputs, LazyImages)
    assert isinstance(memory.train.inputs, np.ndarray)
    assert lazy.sha256 == memory.sha256
    rows = np.array([7, 0, 7, 11], dtype=np.int64)
    assert np.array_equal(lazy.train.inputs[rows], memory.train.inputs[rows])
    assert np.array_equal(lazy.train.inputs[3], memory.train.inputs[3])
    assert list((no_data / "cache").rglob("*.sha256"))


def test_lazy_images_that_occur_twice_stay_on_one_side(
    ilsvrc: Path, no_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 0)
    paths = sorted((ilsvrc / "train").glob("*/*.JPEG"))
    tested = ilsvrc / "val" / WNIDS[0] / "ILSVRC2012_val_00000001.JPEG"
    tested.write_bytes(paths[0].read_bytes())
    paths[5].write_bytes(paths[4].read_bytes())
    for seed in range(5):
        parts = split(load_image_set(SMALL, ilsvrc, SIZE), held_out=0.1, seed=seed)
        held = [{np.asarray(image).tobytes() for image in part.inputs}
                for part in (parts.fit, parts.select, parts.calibrate, parts.report)]  # fmt: skip
        assert [len(part) for part in (parts.fit, parts.select, parts.calibrate, parts.report)] == [8, 1, 1, 1]
        assert len(set().union(*held)) == sum(map(len, held)) == 10
        assert decoded(paths[0], SIZE).tobytes() not in set().union(*held)
        assert decoded(paths[4], SIZE).tobytes() in held[0]
    assert len(list((no_data / "cache").rglob("*.sha256"))) == 2


def test_hashes_are_remembered_until_a_file_changes(
    ilsvrc: Path, no_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 0)
    first = load_image_set(SMALL, ilsvrc, SIZE).sha256
    assert "Reading 12 images once" in capsys.readouterr().err
    assert load_image_set(SMALL, ilsvrc, SIZE).sha256 == first
    assert capsys.readouterr().err == ""
    path = ilsvrc / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert load_image_set(SMALL, ilsvrc, SIZE).sha256 != first
    for remembered in (no_data / "cache").rglob("*.sha256"):  # cut off, as by a full disk
        remembered.write_bytes(remembered.read_bytes()[:-1])
    assert load_image_set(SMALL, ilsvrc, SIZE).sha256 != first


def as_hub(root: Path, images: ImageSet, names: tuple[str, ...]) -> None:
    """Write parquet files as the hub has them: the encoded image, its file's name and the class."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    (root / "data").mkdir(parents=True)
    for part, count in (("train", images.train), (images.hub_test, images.test)):
        rows = []
        for row in range(count):
            save(root.parent / "one.JPEG", count + row)
            content = (root.parent / "one.JPEG").read_bytes()
            rows.append({"image": {"bytes": content, "path": f"{row}.JPEG"}, "label": row % 3})
        split_of_hub = datasets.Dataset.from_list(rows, features=features)
        split_of_hub.to_parquet(root / "data" / f"{part}-00000-of-00001.parquet")


def load_hub(root: Path, images: ImageSet, image: ImageConfig) -> Dataset:
    return load_listing(images, list_hub_images(images, str(root)), "the hub", image)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(("images", "names"), [(TINY, WNIDS), (SMALL, ("tench, Tinca tinca", "goldfish", "crane"))])
def test_the_hub_format(
    images: ImageSet, names: tuple[str, ...], no_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_hub(no_data / "hub", images, names)
    dataset = load_hub(no_data / "hub", images, SIZE)
    assert dataset.labels == (WNIDS if names == WNIDS else ("tench", "goldfish", "crane"))
    assert dataset.train.targets.tolist() == [row % 3 for row in range(12)]
    save(no_data / "one.JPEG", 12 + 5)
    assert np.array_equal(np.asarray(dataset.train.inputs)[5], decoded(no_data / "one.JPEG", SIZE))
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 0)
    lazy = load_hub(no_data / "hub", images, SIZE)
    assert isinstance(lazy.train.inputs, LazyImages)
    assert np.array_equal(np.asarray(lazy.train.inputs), np.asarray(dataset.train.inputs))
    assert lazy.sha256 == dataset.sha256
    with pytest.raises(FetchError, match="it has no split other"):
        list_hub_images(replace(images, hub_test="other"), str(no_data / "hub"))


def test_an_incomplete_copy_is_refused(tiny: Path, ilsvrc: Path) -> None:
    counts = "holds 3 classes, 12 images to train on and 6 to test on"
    with pytest.raises(DataError, match=rf"{counts}; Tiny-ImageNet has 200, 100,000 and 10,000"):
        load_dataset(DataConfig(source="tiny-imagenet", path=tiny))
    with pytest.raises(DataError, match=rf"{counts}; ImageNet has 1,000, 1,281,167 and 50,000"):
        load_dataset(DataConfig(source="imagenet", path=ilsvrc))


def test_what_is_missing_or_wrong_is_named(tiny: Path, ilsvrc: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder\. Unpack tiny-imagenet-200\.zip"):
        load_image_set(TINY, tmp_path / "nowhere")
    annotations = tiny / "val" / "val_annotations.txt"
    whole = annotations.read_text()
    for line, message in (
        ("val_9.JPEG\tn01443537\t0\t0\t1\t1", r"val_annotations\.txt, line 7: .*val_9\.JPEG does not exist"),
        ("val_0.JPEG\tn00000000\t0\t0\t1\t1", r"line 7: not a file and one of the classes of wnids\.txt: 'val_0"),
        ("val_0.JPEG", "line 7: not a file and one of the classes"),
    ):
        annotations.write_text(whole + line + "\n")
        with pytest.raises(DataError, match=message):
            load_image_set(TINY, tiny)
    annotations.unlink()
    with pytest.raises(DataError, match=r"val_annotations\.txt cannot be read"):
        load_image_set(TINY, tiny)
    with pytest.raises(DataError, match="does not hold the folder train"):
        load_image_set(SMALL, tiny / "val", SIZE)
    flatten(ilsvrc)
    solution = ilsvrc / "LOC_val_solution.csv"
    whole = solution.read_text()
    for line, message in (
        ("ILSVRC2012_val_00000009,n01443537 1 2 3 4", r"line 8: .*val_00000009\.JPEG does not exist"),
        ("ILSVRC2012_val_00000001,n00000000 1 2 3 4", "line 8: not an image and one of the classes of train"),
        ("ILSVRC2012_val_00000001", "line 8: not an image and one of the classes of train"),
    ):
        solution.write_text(whole + line + "\n")
        with pytest.raises(DataError, match=message):
            load_image_set(SMALL, ilsvrc, SIZE)
    solution.unlink()
    with pytest.raises(DataError, match=r"images without classes, and .*LOC_val_solution\.csv does not exist"):
        load_image_set(SMALL, ilsvrc, SIZE)


def test_a_damaged_image_is_named_when_it_is_decoded(
    ilsvrc: Path, no_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ilsvrc / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{bad} cannot be used: "):
        load_image_set(SMALL, ilsvrc, SIZE)
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 0)
    images = load_image_set(SMALL, ilsvrc, SIZE).train.inputs
    assert isinstance(images, LazyImages)
    assert images[np.arange(6)].shape == (6, 16, 16, 3)
    with pytest.raises(DataError, match=f"{bad} cannot be used: "):
        images[np.arange(12)]
    bad.unlink()
    with pytest.raises(DataError, match=f"{bad} cannot be used: .*No such file"):
        images[6]
    assert (no_data / "cache").is_dir()


def test_names_are_short_and_unique() -> None:
    words = {"n1": "crane", "n2": "tench, Tinca tinca", "n3": "crane, a bird"}
    assert readable_labels(["n1", "n2", "n3", "n4"], words) == ("crane (n1)", "tench", "crane (n3)", "n4")
