"""Examples as a reader sees them: pictures as data: URIs, texts cut to a readable length, opinions as bars."""

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.vote import softmax
from training.data import Examples
from training.report.findings import Floats, Integers
from training.report.page import Example, Opinion

MOST_CHARACTERS = 600
"""Longer texts are cut."""
MOST_PIXELS = 256
"""Larger pictures are reduced."""
MOST_CLASSES = 4
"""Classes whose bars are shown: the true one, then those that any head gives most."""


def show_examples(
    rows: Integers, examples: Examples, labels: Sequence[str], logits: NDArray[np.float32], voted: Floats
) -> list[Example]:
    """Show `rows` of a part with the heads' logits [H, N, K] and the calibrated vote [N, K]."""
    shown = []
    for row in rows.tolist():
        heads = softmax(logits[:, row])  # [H, K]
        truth = int(examples.targets[row])
        first = heads.argmax(axis=-1)
        vote = int(voted[row].argmax())
        picture, text, note = _input(examples, row)
        others = [int(index) for index in np.argsort(-heads.max(axis=0), kind="stable") if index != truth]
        shown.append(
            Example(
                row=row,
                picture=picture,
                text=text,
                note=note,
                truth=labels[truth],
                vote=labels[vote],
                summary=f"{voted[row, vote]:.0%} by the vote{_spread(set(first.tolist()), len(heads))}",
                opinions=[
                    Opinion(labels[index], index == truth, [float(value) for value in heads[:, index]])
                    for index in [truth, *others][:MOST_CLASSES]
                ],
            )
        )
    return shown


def _spread(choices: set[int], heads: int) -> str:
    if heads == 1:
        return ""
    return f"; {len(choices)} different first choices" if len(choices) > 1 else "; all heads choose it first"


def _input(examples: Examples, row: int) -> tuple[str | None, str | None, str]:
    """Picture, text and what was changed to show it."""
    if isinstance(examples.inputs, tuple):
        text = examples.inputs[row]
        if len(text) <= MOST_CHARACTERS:
            return None, text, ""
        return None, f"{text[:MOST_CHARACTERS]}…", f"first {MOST_CHARACTERS} of {len(text):,} characters"
    pixels = examples.inputs[row]
    height, width = pixels.shape[:2]
    return picture_uri(pixels), None, f"reduced from {width} x {height}" if max(height, width) > MOST_PIXELS else ""


def picture_uri(pixels: NDArray[np.uint8]) -> str:
    """PNG of an image [height, width(, 3)] as a data: URI; its larger side has at most MOST_PIXELS pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    content = BytesIO()
    image.save(content, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
