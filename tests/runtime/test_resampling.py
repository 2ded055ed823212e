"""How images are resized, against the formulas of docs/artifact.md, written out in numpy."""

import io
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime.manifest import ImagePreprocessing
from runtime.preprocess import ImagePreprocessor

Filter = Literal["bilinear", "bicubic"]
Bytes = NDArray[np.uint8]


def preprocessor(mode: Literal["L", "RGB"], height: int, width: int, shorter: int, filter: Filter) -> ImagePreprocessor:  # noqa: A002
    channels = 1 if mode == "L" else 3
    return ImagePreprocessor(
        ImagePreprocessing(
            mode=mode, height=height, width=width, resize_shorter=shorter, interpolation=filter,
            mean=(0.25,) * channels, std=(0.5,) * channels,
        )
    )  # fmt: skip


def kernel(x: float, kind: Filter) -> float:
    x = abs(x)
    if kind == "bilinear":
        return max(0.0, 1 - x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def along_first_axis(pixels: Bytes, size: int, start: float, stop: float, kind: Filter) -> Bytes:
    """Resample axis 0 of uint8 pixels to `size` over the box from `start` to `stop`."""
    radius = 1 if kind == "bilinear" else 2
    scale = (stop - start) / size
    stretch = max(scale, 1.0)
    rows = []
    for index in range(size):
        centre = start + (index + 0.5) * scale
        first = max(0, int(centre - radius * stretch + 0.5))
        end = min(len(pixels), int(centre + radius * stretch + 0.5))
        weights = np.array([kernel((j - centre + 0.5) * (1 / stretch), kind) for j in range(first, end)])
        weights = weights / sum(weights) * 2**22
        whole = np.trunc(weights + np.copysign(0.5, weights)).astype(np.int64)
        sums = 2**21 + np.tensordot(whole, pixels[first:end].astype(np.int64), axes=1)
        rows.append(np.clip(sums >> 22, 0, 255))
    return np.stack(rows).astype(np.uint8)


def resized(pixels: Bytes, spec: ImagePreprocessing, *, columns_first: bool) -> Bytes:
    """Resize and crop uint8 [H, W, C] as the document says, in one of the two orders that it allows."""
    high, wide = pixels.shape[:2]
    shorter = min(high, wide)
    width, height = spec.width * shorter / spec.resize_shorter, spec.height * shorter / spec.resize_shorter
    left, top = (wide - width) / 2, (high - height) / 2
    x0, y0, x1, y1 = (float(np.float32(edge)) for edge in (left, top, left + width, top + height))
    if columns_first:
        columns = along_first_axis(pixels.swapaxes(0, 1), spec.width, x0, x1, spec.interpolation)
        return along_first_axis(columns.swapaxes(0, 1), spec.height, y0, y1, spec.interpolation)
    rows = along_first_axis(pixels, spec.height, y0, y1, spec.interpolation)
    return along_first_axis(rows.swapaxes(0, 1), spec.width, x0, x1, spec.interpolation).swapaxes(0, 1)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(49, 49), (28, 28), (100, 37), (11, 200), (13, 17), (64, 48), (1, 5)])
def test_every_pixel_is_that_of_the_formulas(size: tuple[int, int], kind: Filter) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    for height, width, shorter in ((28, 28, 28), (20, 24, 32), (7, 5, 9)):
        made = preprocessor("RGB", height, width, shorter, kind)
        found = np.asarray(made.resize(Image.fromarray(pixels))).astype(np.int64)
        steps = min(
            (np.abs(found - resized(pixels, made.spec, columns_first=first)) for first in (True, False)),
            key=lambda difference: int(difference.sum()),
        )
        # A weight that lies half-way between two integers may go either way; another formula moves most pixels.
        assert steps.max() <= 1
        assert (steps > 0).mean() <= 0.02


@pytest.mark.parametrize("shorter", [28, 32, 49, 224])
def test_images_of_every_size_are_resized(shorter: int) -> None:
    """A corner that a rounding error puts at -4e-15 would be refused by Pillow."""
    found = preprocessor("L", shorter, shorter, shorter, "bilinear")
    for side in range(1, 400):
        assert found.resize(Image.new("L", (side, side), 7)).getextrema() == (7, 7)


def test_grey_is_the_weighted_sum_that_is_documented() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    found = preprocessor("L", 28, 28, 28, "bilinear")
    greys = (pixels.astype(np.int64) @ np.array([19595, 38470, 7471]) + 32768) >> 16
    expected = (greys.astype(np.float32) / np.float32(255) - np.float32(0.25)) / np.float32(0.5)
    png = _png(pixels)
    np.testing.assert_array_equal(found.prepare(png)["image"][0], expected)


def _png(pixels: Bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
