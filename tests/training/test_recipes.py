"""The recipes for published image sets, trained in small: small files of the genuine layout, small networks."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.checkpoint import Checkpoint
from training.data.cifar import CIFAR100
from training.data.fetch import store
from training.data.imagenet import IMAGENET
from training.train import train

SMALL = ["accelerator=cpu", "threads=1", "epochs=1", "batch_size=20", "sparsity.update_every=3"]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_the_cifar100_recipe_trains(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    files = {}
    for name, count in (("train.bin", 500), ("test.bin", 20)):
        records = generator.integers(0, 256, size=(count, 2 + 3072), dtype=np.uint8)
        records[:, 0], records[:, 1] = 0, np.arange(count) % 100
        files[name] = records.tobytes()
    store(tmp_path / "data", files)
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr("training.data.CIFAR100", replace(CIFAR100, files=replace(CIFAR100.files, sha256=sha256)))
    own = [
        f"precision={precision}",
        f"data.path={tmp_path / 'data'}",
        "network.depth=10",
        "network.width=1",
        "ensemble.blocks_in_head=2",
    ]
    train("recipes/cifar100.yaml", *SMALL, *own, run=str(tmp_path / "run"))
    checkpoint = Checkpoint.open(tmp_path / "run")
    assert checkpoint.description.labels == CIFAR100.labels
    assert checkpoint.description.preprocessing.model_dump()["mean"] == CIFAR100.statistics[0]
    assert [0 < loss < 10 for loss in losses(tmp_path / "run")] == [True]


def test_the_imagenet_recipe_trains_on_lazily_decoded_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 4)):
        for name in ("n01440764", "n01443537", "n01484850"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, size=(9, 9, 3), dtype=np.uint8)
                width, height = 40 + index % 7, 36 + index % 11
                Image.fromarray(pixels).resize((width, height)).save(folder / f"{name}_{index}.JPEG", quality=80)
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("training.data.IMAGENET", replace(IMAGENET, classes=3, train=120, test=12))
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 0)
    size = "data.image={mode: RGB, height: 32, width: 32, resize_shorter: 36}"
    own = [
        f"data.path={tmp_path / 'data'}",
        size,
        "data.held_out=0.05",
        "network.depth=18",
        "ensemble.blocks_in_head=2",
    ]
    train("recipes/imagenet.yaml", *SMALL, *own, "batch_size=60", "ensemble.heads=2", run=str(tmp_path / "run"))
    description = Checkpoint.open(tmp_path / "run").description
    assert description.preprocessing.model_dump()["std"] == (0.229, 0.224, 0.225)
    assert description.preprocessing.model_dump()["resize_shorter"] == 36
