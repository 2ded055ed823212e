"""Pixel statistics: the same whether images are in memory or decoded in chunks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import ImageConfig, LazyImages
from training.data.image_source import ImageFilesSource, hash_images
from training.data.statistics import pixel_statistics


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lazy_images_have_the_statistics_of_their_pixels(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    names = [f"{index:02}.png" for index in range(11)]
    for index, name in enumerate(names):
        pixels = generator.integers(0, 100 + 10 * index, size=(6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / name)
    source = ImageFilesSource(tmp_path, tuple(names))
    image = ImageConfig.model_validate({"mode": mode, "height": 5, "width": 5})
    lazy = LazyImages(source, np.arange(11), hash_images(source), image)
    monkeypatch.setattr("training.data.statistics.CHUNK", 4)
    scaled = np.asarray(lazy) / 255
    mean, std = pixel_statistics(lazy)
    assert (mean, std) == pixel_statistics(np.asarray(lazy))
    assert np.allclose(mean, scaled.mean(axis=(0, 1, 2)), atol=1e-4)
    assert np.allclose(std, scaled.std(axis=(0, 1, 2)), atol=1e-4)
    monkeypatch.setattr("training.data.statistics.SAMPLED", 3)
    assert pixel_statistics(lazy) == pixel_statistics(np.asarray(lazy)[[0, 5, 10]])
