"""Tiny data for smoke runs: pictures of stripes and texts about three things, made from a seed; nothing is fetched."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from accuracy_grid import Data
from runtime.files import atomic_folder

ROWS = {"train": 120, "test": 30}
SIDE = 12
"""Pixels."""
STRIPES = ("across", "down", "plain")
TOPICS = {"sea": "wave salt ship", "sky": "cloud bird wind", "soil": "root worm seed"}
COMMON = ["the", "of", "and", "a", "near", "old", "quiet"]


def smoke_overrides(data: Data, folder: Path) -> tuple[str, ...]:
    """Changes that turn a data set's recipe into seconds of work; the data is written into `folder` if missing."""
    folder = folder / data
    if not folder.exists():
        with atomic_folder(folder) as partial:
            (_write_pictures if data == "fashion-mnist" else _write_texts)(partial)
    common = ("epochs=3", "batch_size=16", "sparsity.update_every=3", f"name=smoke-{data}")
    if data == "fashion-mnist":
        image = {"mode": "L", "height": SIDE, "width": SIDE}
        source = {"source": "image-folder", "path": str(folder), "held_out": 0.2, "image": image}
        return (*common, f"data={json.dumps(source)}", "network.width=1")
    files = {"path": str(folder / "train.csv"), "test_path": str(folder / "test.csv")}
    source = {"source": "text-table", **files, "held_out": 0.2}
    return (
        *common, f"data={json.dumps(source)}", "network.vocabulary=120", "network.width=16",
        "network.attention_heads=2", "network.lengths=[8, 16]",
    )  # fmt: skip


def _write_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for part, rows in ROWS.items():
        for index in range(rows):
            pixels = generator.integers(0, 160, size=(SIDE, SIDE))
            kind = STRIPES[index % 3]
            if kind == "across":
                pixels[::2] += 90
            elif kind == "down":
                pixels[:, ::2] += 90
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / part / kind / f"{index}.png")


def _write_texts(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for part, rows in ROWS.items():
        lines = ["text,label"]
        for index in range(rows):
            label = list(TOPICS)[index % 3]
            words = np.array([*TOPICS[label].split(), *COMMON])
            lines.append(f"{' '.join(generator.choice(words, size=generator.integers(3, 20)))},{label}")
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
