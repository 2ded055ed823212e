"""The common corruptions: all of them, at all severities, the same bytes every time."""

import builtins
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.data import Examples
from training.errors import ConfigError
from training.evaluation.corruptions import COMMON, SEVERITIES, MissingPackage, corrupt, measure_robustness

# OpenCV, which the library needs, wants libGL, which small systems lack.
imagecorruptions = pytest.importorskip("imagecorruptions", exc_type=ImportError)


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    """Two colour pictures of 40 x 36 pixels with edges and shades."""
    rows, columns = np.indices((40, 36))
    shades = np.stack([rows * 6, columns * 6, (rows // 5 + columns // 7) % 2 * 200], axis=-1)
    both: NDArray[np.int64] = np.stack([shades, 255 - shades])
    return both.clip(0, 255).astype(np.uint8)


def test_the_corruptions_are_the_librarys_common_ones() -> None:
    assert list(COMMON) == imagecorruptions.get_corruption_names("common")


@pytest.mark.parametrize("corruption", COMMON)
def test_every_corruption_changes_more_at_a_higher_severity(corruption: str, pictures: NDArray[np.uint8]) -> None:
    mild, strong = corrupt(pictures, corruption, 1), corrupt(pictures, corruption, 5)
    assert mild.shape == strong.shape == pictures.shape
    assert mild.dtype == np.uint8

    def change(corrupted: NDArray[np.uint8]) -> float:
        return float(np.abs(corrupted.astype(float) - pictures).mean())

    assert 0 < change(mild) < change(strong)
    np.testing.assert_array_equal(corrupt(pictures, corruption, 1), mild)


def test_random_numbers_depend_on_the_place_and_the_seed_alone(pictures: NDArray[np.uint8]) -> None:
    twice = np.concatenate([pictures[:1], pictures[:1]])
    for corruption in ("gaussian_noise", "impulse_noise", "glass_blur", "snow"):
        one, other = corrupt(twice, corruption, 3)
        assert not np.array_equal(one, other)
        np.testing.assert_array_equal(corrupt(pictures, corruption, 3)[0], one)
        assert not np.array_equal(corrupt(twice, corruption, 3, seed=1)[0], one)


def test_numpys_global_generator_is_left_alone(pictures: NDArray[np.uint8]) -> None:
    np.random.seed(7)  # noqa: NPY002 - the point of this test
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    corrupt(pictures, "fog", 1)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_grey_images_are_corrupted_in_colour_and_turned_grey(pictures: NDArray[np.uint8]) -> None:
    grey = pictures[..., 0]
    coloured = corrupt(np.stack([grey] * 3, axis=-1), "gaussian_noise", 2)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in coloured])
    np.testing.assert_array_equal(corrupt(grey, "gaussian_noise", 2), expected)


@pytest.mark.parametrize("shape", [(28, 28), (12, 12, 3), (5, 40, 3)])
@pytest.mark.parametrize("corruption", ["contrast", "jpeg_compression", "zoom_blur", "elastic_transform"])
def test_small_images_keep_their_size_and_their_place(shape: tuple[int, ...], corruption: str) -> None:
    image = np.full(shape, 60, dtype=np.uint8)
    image[: shape[0] // 2] = 180
    [corrupted] = corrupt(image[None], corruption, 1)
    assert corrupted.shape == shape
    assert corrupted[: shape[0] // 2].mean() > corrupted[(shape[0] + 1) // 2 :].mean()


def test_brightness_of_a_small_image_is_that_of_every_pixel() -> None:
    """Brightness acts on each pixel alone, so nothing that surrounds the image may show."""
    image = np.random.default_rng(0).integers(0, 120, (1, 9, 11, 3)).astype(np.uint8)
    large = np.tile(image, (1, 4, 4, 1))
    np.testing.assert_array_equal(corrupt(image, "brightness", 2), corrupt(large, "brightness", 2)[:, :9, :11])


def test_robustness_says_what_the_vote_did(pictures: NDArray[np.uint8]) -> None:
    pixels, targets = np.concatenate([pictures] * 3), np.array([0, 1] * 3)
    asked = []

    def predict(examples: Examples) -> NDArray[np.float64]:
        """Right as long as a picture is as it was."""
        assert not isinstance(examples.inputs, tuple)
        images = np.asarray(examples.inputs)
        asked.append(len(images))
        same = np.array([any(np.array_equal(image, known) for known in pictures) for image in images])
        right = np.eye(2)[examples.targets] * 0.8 + 0.1
        return np.where(same[:, None], right, 1 - right)

    robustness = measure_robustness(Examples(pixels, targets), predict, rows=4)
    assert asked == [4] * (15 * 5 + 1)
    assert (robustness.rows, robustness.clean_accuracy, robustness.mean_accuracy) == (4, 1.0, 0.0)
    assert [own.corruption for own in robustness.corruptions] == list(COMMON)
    assert robustness.corruptions[0].accuracy == (0.0,) * len(SEVERITIES)
    assert robustness.corruptions[0].ece == pytest.approx((0.9,) * len(SEVERITIES))
    assert robustness.accuracy_at(3) == 0.0
    assert robustness.library.startswith("imagecorruptions-imaug 1.")


def test_texts_and_no_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="reads texts"):
        measure_robustness(Examples(("a",), np.array([0])), lambda _: np.zeros((1, 2)), rows=5)
    with pytest.raises(ConfigError, match="corruption_rows is 0"):
        measure_robustness(Examples(np.zeros((1, 4, 4), np.uint8), np.array([0])), lambda _: np.zeros((1, 2)), rows=0)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, pictures: NDArray[np.uint8]) -> None:
    genuine = builtins.__import__

    def without(name: str, arguments: Mapping[str, Any] | None = None, *rest: Any) -> Any:
        if name == "imagecorruptions":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return genuine(name, arguments, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackage, match=r"pip install 'neurotrails\[robustness\]'"):
        corrupt(pictures, "fog", 1)
