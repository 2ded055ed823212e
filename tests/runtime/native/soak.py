"""Predicts for a long time in a process of its own and prints by how much its memory has grown.

Resident bytes show what native code leaks. Small Python objects fit into what loading has left free, so their blocks
are counted.

python -m tests.runtime.native.soak FOLDER CALLS
"""

import ctypes
import gc
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.engines.native.engine import NativeEngine
from runtime.predictor import Predictions, Predictor, Wish
from tests.artifacts import LENGTHS, write_tiny_image_artifact, write_tiny_text_artifact

ROWS = (1, 2, 3, 4, 5, 9)
WISHES = (
    Wish(), Wish(heads=1), Wish(heads=2), Wish(min_confidence=0.3), Wish(min_confidence=1.0),
    Wish(heads=2, min_confidence=0.9),
)  # fmt: skip
WARM_UP_CALLS = 600
"""All combinations occur, and the allocator has seen what it will see."""


def predictions(folder: Path) -> Iterator[Predictions]:
    """Endless predictions: both modalities and lengths, every number of rows and wish, mixed wishes in one batch."""
    write_tiny_image_artifact(folder / "image")
    write_tiny_text_artifact(folder / "text")
    predictors, references = [], []
    for name in ("image", "text"):
        artifact = Artifact.open(folder / name)
        engine = NativeEngine(artifact, EngineOptions(cores=2, batch_sizes=(1, 4), lengths=LENGTHS))
        predictors.append(Predictor(artifact, engine))
        reference = artifact.reference()
        references.append({spec.name: reference[f"input.{spec.name}"] for spec in artifact.manifest.inputs})
    for number in itertools.count():
        kind, rows = number % 2, ROWS[number // 2 % len(ROWS)]
        inputs = {name: tensor[:rows] for name, tensor in references[kind].items()}
        if kind == 1:
            tokens = LENGTHS[number // 4 % len(LENGTHS)]
            inputs = {name: tensor[:, :tokens] for name, tensor in inputs.items()}
        wishes = [WISHES[(number // 2 + row * (number % 3)) % len(WISHES)] for row in range(rows)]
        yield predictors[kind].predict_batch(inputs, wishes)


def resident_bytes() -> int:
    """Resident memory of this process, without what it could give back: that would hide what leaks."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(folder: Path, count: int) -> None:
    """Predict `count` times after a warm-up; print the growth in bytes and in Python's blocks."""
    endless = predictions(folder)
    for _ in itertools.islice(endless, WARM_UP_CALLS):
        pass
    memory, blocks = resident_bytes(), sys.getallocatedblocks()
    for _ in itertools.islice(endless, count):
        pass
    print(resident_bytes() - memory, sys.getallocatedblocks() - blocks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
