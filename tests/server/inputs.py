"""Inputs for the tiny artifacts: image files and texts, a different one for each seed."""

import io
from typing import Any

import numpy as np
from PIL import Image

from tests.artifacts import WORDS

Expected = dict[str, Any]


def image_file(seed: int, image_format: str = "PNG", size: tuple[int, int] = (20, 16)) -> bytes:
    """Return a grey image file: noise of a brightness and contrast that depend on the seed."""
    generator = np.random.default_rng(seed)
    low = int(generator.integers(0, 200))
    pixels = generator.integers(low, int(generator.integers(low + 1, 256)), size[::-1], dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def text(seed: int) -> str:
    """Return a text of 1 to 20 words, most of which the tiny tokenizer knows."""
    generator = np.random.default_rng(seed)
    return " ".join(generator.choice([*WORDS, "zebra"], generator.integers(1, 21)))
