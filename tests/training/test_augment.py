"""Augmentation against Pillow and plain indexing; its parameters; normalization against the serving side's."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from runtime.preprocess import ImagePreprocessor
from training.augment import Augmentation, draw, normalized
from training.config import AugmentConfig, ResizedCropConfig
from training.data import ImageConfig

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def images_of(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)


def drawn(config: AugmentConfig, count: int, height: int, width: int, seed: int = 0) -> Augmentation:
    return draw(config, count, (height, width), (height, width), np.random.default_rng(seed))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_crops_and_mirrors_are_slices_of_the_padded_image(device: str, channels: tuple[int, ...]) -> None:
    images = images_of(40, 9, 7, *channels)
    augmentation = drawn(AugmentConfig(crop_padding=2, flip=True), 40, 9, 7)
    moved = augmentation.move(torch.from_numpy(images).to(device))
    assert moved.dtype == torch.uint8
    assert augmentation.corners is not None
    assert augmentation.mirrored is not None
    for row in range(40):
        padded = np.pad(images[row], [(2, 2), (2, 2)] + [(0, 0)] * len(channels))
        top, left = augmentation.corners[row].tolist()
        expected = padded[top : top + 9, left : left + 7]
        if augmentation.mirrored[row]:
            expected = expected[:, ::-1]
        assert np.array_equal(moved[row].cpu().numpy(), expected)
    assert set(augmentation.corners.flatten().tolist()) == set(range(5))
    assert 5 < int(augmentation.mirrored.sum()) < 35


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(16, 24), (48, 40)])
def test_resized_crops_are_those_of_pillow(device: str, size: tuple[int, int]) -> None:
    images = images_of(12, 40, 36, 3)
    config = AugmentConfig(resized_crop=ResizedCropConfig(scale=(0.1, 1.0)))
    augmentation = draw(config, 12, size, (40, 36), np.random.default_rng(3))
    moved = augmentation.move(torch.from_numpy(images).to(device))
    assert augmentation.boxes is not None
    assert moved.shape == (12, *size, 3)
    for row in range(12):
        top, left, height, width = augmentation.boxes[row].tolist()
        crop = Image.fromarray(images[row]).crop((left, top, left + width, top + height))
        expected = np.asarray(crop.resize((size[1], size[0]), Image.Resampling.BILINEAR), dtype=np.float32)
        # Pillow rounds to whole numbers twice, once for each axis.
        assert np.abs(moved[row].cpu().numpy() - expected).max() <= 1.01


def test_resized_crops_of_grey_images_have_no_channel_axis() -> None:
    images = torch.from_numpy(images_of(3, 20, 20))
    augmentation = draw(AugmentConfig(resized_crop=ResizedCropConfig()), 3, (8, 8), (20, 20), np.random.default_rng(0))
    assert augmentation.move(images).shape == (3, 8, 8)
    coloured = augmentation.move(images[..., None].expand(-1, -1, -1, 3))
    assert torch.allclose(coloured[..., 1], augmentation.move(images))


def test_boxes_have_the_areas_and_ratios_that_are_asked_for() -> None:
    config = AugmentConfig(resized_crop=ResizedCropConfig(scale=(0.2, 0.5), ratio=(0.5, 2.0)))
    boxes = draw(config, 4000, (224, 224), (256, 256), np.random.default_rng(1)).boxes
    assert boxes is not None
    top, left, height, width = boxes.double().T
    area, ratio = height * width / 256**2, width / height
    assert float(area.min()) > 0.19
    assert float(area.max()) < 0.51
    assert 0.49 < float(ratio.min()) < 0.51
    assert 1.96 < float(ratio.max()) < 2.04
    assert abs(float(area.mean()) - 0.35) < 0.01
    assert abs(float(ratio.log().mean())) < 0.03  # as many are tall as are wide
    assert int(torch.stack([top, left]).min()) == 0
    assert int((top + height).max()) == 256
    assert int((left + width).max()) == 256


def test_where_no_attempt_fits_the_largest_allowed_crop_is_taken() -> None:
    config = AugmentConfig(resized_crop=ResizedCropConfig(scale=(1.0, 1.0), ratio=(0.8, 1.25)))
    boxes = draw(config, 50, (8, 8), (100, 20), np.random.default_rng(1)).boxes
    assert boxes is not None
    assert boxes[:, 2:].tolist() == [[25, 20]] * 50


@pytest.mark.parametrize("side", [4, 5])
def test_a_cutout_is_one_square_of_the_mean(side: int) -> None:
    augmentation = drawn(AugmentConfig(cutout=side), 30, 12, 10)
    cut = augmentation.cut(torch.ones(30, 3, 12, 10))
    assert augmentation.holes is not None
    for row in range(30):
        expected = np.ones((12, 10), dtype=np.float32)
        centre = augmentation.holes[row].tolist()
        top, left = centre[0] - side // 2, centre[1] - side // 2
        expected[max(top, 0) : top + side, max(left, 0) : left + side] = 0
        assert np.array_equal(cut[row].numpy(), np.stack([expected] * 3))


def test_the_parameters_depend_on_nothing_but_the_generator() -> None:
    config = AugmentConfig(resized_crop=ResizedCropConfig(), flip=True, cutout=4)
    images = torch.from_numpy(images_of(9, 16, 16, 3))
    whole = drawn(config, 9, 16, 16, seed=5)
    assert torch.equal(whole.move(images), drawn(config, 9, 16, 16, seed=5).move(images))
    assert not torch.equal(whole.move(images), drawn(config, 9, 16, 16, seed=6).move(images))
    for rank in range(2):
        shard = whole.shard(rank, 2)
        assert torch.allclose(shard.move(images[rank::2]), whole.move(images)[rank::2], atol=1e-3)
        ones = torch.ones(9, 3, 16, 16)
        assert torch.equal(shard.cut(ones[rank::2]), whole.cut(ones)[rank::2])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_normalization_is_that_of_serving_bit_for_bit(device: str, mode: str) -> None:
    image = ImageConfig.model_validate({"mode": mode, "height": 16, "width": 16})
    channels = 3 if mode == "RGB" else 1
    spec = image.preprocessing((0.4914, 0.4822, 0.4465)[:channels], (0.2470, 0.2435, 0.2616)[:channels])
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    pixels = values if mode == "L" else np.stack([values] * 3, axis=-1)
    on_device = normalized(torch.from_numpy(pixels).to(device), spec)
    assert on_device.stride() == (256 * channels, 1, 16 * channels, channels)  # channels_last, also of one channel
    assert np.array_equal(on_device.cpu().numpy(), ImagePreprocessor(spec).normalize(pixels))


def test_without_resized_crops_the_size_must_fit() -> None:
    with pytest.raises(ValueError, match=r"\(20, 20\) pixels cannot become \(16, 16\)"):
        draw(AugmentConfig(flip=True), 2, (16, 16), (20, 20), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_padding": 4, "resized_crop": {}}, "resized_crop crops already; remove crop_padding 4"),
        ({"resized_crop": {"scale": [1.0, 0.5]}}, "scale goes from 1.0 down to 0.5"),
        ({"resized_crop": {"ratio": [0, 1]}}, "ratio"),
        ({"cutout": -1}, "cutout"),
    ],
)
def test_augmentations_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentConfig.model_validate(fields)
