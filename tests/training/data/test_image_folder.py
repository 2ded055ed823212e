"""A user's image folder is read exactly as the server reads what clients post."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.preprocess import ImagePreprocessor
from training.data import DataConfig, DataError, Dataset, ImageConfig, LazyImages, load_dataset

GREY = ImageConfig(mode="L", height=28, width=28)


@pytest.fixture
def folder(fashion_mnist: Dataset, tmp_path: Path) -> Path:
    """Genuine images of two classes, in several formats."""
    root = tmp_path / "clothes"
    for target, label in enumerate(("bag", "boot")):
        (root / label).mkdir(parents=True)
        rows = np.flatnonzero(fashion_mnist.train.targets == (8, 9)[target])[:3]
        for row, suffix in zip(rows, ("png", "jpg", "webp"), strict=True):
            pixels = fashion_mnist.train.inputs[row]
            assert isinstance(pixels, np.ndarray)
            Image.fromarray(pixels).resize((40, 28 + 10 * target)).save(root / label / f"{row}.{suffix}")
    return root


def load(path: Path, image: ImageConfig = GREY, test_path: Path | None = None) -> Dataset:
    return load_dataset(DataConfig(source="image-folder", path=path, test_path=test_path, image=image))


@pytest.mark.parametrize(
    "image", [GREY, ImageConfig(mode="RGB", height=16, width=20, resize_shorter=24, interpolation="bicubic")]
)
def test_training_sees_what_serving_sees(folder: Path, image: ImageConfig) -> None:
    dataset = load(folder, image)
    channels = 1 if image.mode == "L" else 3
    served = ImagePreprocessor(image.preprocessing((0.0,) * channels, (1.0,) * channels))
    files = sorted(folder.rglob("*.*"))
    assert dataset.labels == ("bag", "boot")
    assert dataset.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert isinstance(dataset.train.inputs, np.ndarray)
    assert dataset.train.inputs.dtype == np.uint8
    for pixels, file in zip(served.normalize(dataset.train.inputs), files, strict=True):
        assert np.array_equal(pixels, served.prepare(file.read_bytes())["image"])
    assert dataset.test is None
    assert dataset.source == "image folder clothes"
    assert dataset.image == image


def test_the_hash_follows_content_and_names_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = load(folder).sha256
    moved = folder.rename(tmp_path / "moved")
    assert load(moved).sha256 == before
    (moved / "bag" / "extra.png").write_bytes(next((moved / "bag").glob("*.png")).read_bytes())
    assert load(moved).sha256 != before


def test_train_and_test_folders(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "both"
    root.mkdir()
    folder.rename(root / "train")
    (root / "test" / "boot").mkdir(parents=True)
    next((root / "train" / "boot").glob("*.png")).rename(root / "test" / "boot" / "1.png")
    (root / "test" / "boot" / ".hidden").write_text("ignored")
    (root / "test" / "boot" / "Thumbs.db").write_text("ignored")
    dataset = load(root)
    assert dataset.test is not None
    assert dataset.train.targets.tolist() == [0, 0, 0, 1, 1]
    assert dataset.test.targets.tolist() == [1]
    apart = load(root / "train", test_path=root / "test")
    assert apart.test is not None
    assert np.array_equal(apart.test.inputs, dataset.test.inputs)
    with pytest.raises(DataError, match=r"test_path .* is one too many"):
        load(root, test_path=folder)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(folder: Path, content: bytes | None) -> None:
    good = next((folder / "boot").glob("*.png")).read_bytes()
    bad = folder / "boot" / "zz.png"
    bad.write_bytes(good[: len(good) // 2] if content is None else content)
    with pytest.raises(DataError, match=rf"{bad} cannot be used: "):
        load(folder)


def test_a_folder_that_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"bag holds 0 subfolder\(s\); it needs one for each of at least two classes"):
        load(folder / "bag")
    (folder / "hat").mkdir()
    with pytest.raises(DataError, match="hat holds no image"):
        load(folder)
    (folder / "hat").rmdir()
    (tmp_path / "test" / "hat").mkdir(parents=True)
    with pytest.raises(DataError, match="holds the class 'hat', which the training data lacks"):
        load(folder, test_path=tmp_path / "test")
    (tmp_path / "test" / "hat").rmdir()
    with pytest.raises(DataError, match="test holds no image"):
        load(folder, test_path=tmp_path / "test")


def test_a_large_folder_is_decoded_lazily_in_all_its_parts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test" / "bag").mkdir(parents=True)
    copied = next((folder / "bag").glob("*.png"))
    (tmp_path / "test" / "bag" / "copy.png").write_bytes(copied.read_bytes())
    memory = load(folder, test_path=tmp_path / "test")
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 7 * 28 * 28 - 1)
    lazy = load(folder, test_path=tmp_path / "test")
    assert memory.test is not None
    assert lazy.test is not None
    for one, other in ((memory.train, lazy.train), (memory.test, lazy.test)):
        assert isinstance(one.inputs, np.ndarray)
        assert isinstance(other.inputs, LazyImages)
        assert np.array_equal(one.inputs, np.asarray(other.inputs))
    assert lazy.sha256 == memory.sha256
