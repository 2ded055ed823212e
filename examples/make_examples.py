"""Writes the examples of this folder: genuine inputs from the test sets, with their true labels.

    .venv/bin/python examples/make_examples.py

Images: the first test image of each of six classes. Texts: six short test posts that name no private person, chosen
among those that a naive Bayes classifier and the shipped artifact get right.
"""

import json
import re
import sys
from pathlib import Path
from typing import Literal

from PIL import Image

from training.data import DataConfig, Examples, load_dataset

IMAGE_LABELS = ("Ankle boot", "Pullover", "Trouser", "Sneaker", "Dress", "Bag")
TEXT_ROWS = (2002, 2529, 3439, 4053, 4712, 5699)


def write_examples(folder: Path) -> None:
    """Write `fashion-mnist/*.png`, `newsgroups/*.txt` and `expected.json` (true labels) into `folder`."""
    expected = {}
    labels, test = _test_data("fashion-mnist")
    for label in IMAGE_LABELS:
        row = test.targets.tolist().index(labels.index(label))
        stem = re.sub(r"[^a-z]+", "-", label.lower())
        file = _new_file(folder / "fashion-mnist" / f"{stem}-{row}.png")
        Image.fromarray(test.inputs[row]).save(file)
        expected[file.relative_to(folder).as_posix()] = {"model": "fashion-mnist", "label": label}
    labels, test = _test_data("newsgroups")
    for row in TEXT_ROWS:
        label = labels[test.targets[row]]
        file = _new_file(folder / "newsgroups" / f"{label}-{row}.txt")
        file.write_text(f"{test.inputs[row]}\n", encoding="utf-8")
        expected[file.relative_to(folder).as_posix()] = {"model": "newsgroups", "label": label}
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")


def _test_data(source: Literal["fashion-mnist", "newsgroups"]) -> tuple[tuple[str, ...], Examples]:
    dataset = load_dataset(DataConfig(source=source))
    if dataset.test is None:
        raise ValueError(f"{source} has no test data")
    return dataset.labels, dataset.test


def _new_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    write_examples(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
