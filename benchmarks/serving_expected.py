"""What every answer must be: inputs for the shipped models, and their answers by a bare predictor, for all heads.

    expected = expected_answers(folders, candidates, "auto", cpu=0)
    expected.difference("1", row=3, heads=2, probability=0.91, head_probabilities=(0.9, 0.8))

Inputs are chosen so that their answers differ by far more than the tolerance, whatever number of heads votes and in
whatever version: an answer that went to the wrong request cannot pass for the right one.
"""

import io
import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from environment import REPOSITORY
from runtime.artifact import MANIFEST, Artifact
from runtime.predictor import Wish
from runtime.preprocess import Input
from serving_bare import BarePredictor

TOLERANCE = 1e-4
"""Most that a probability may differ from the precomputed one: rows are computed in batches of other sizes."""
DISTINCT = 5 * TOLERANCE
"""Answers of two inputs with the same label differ by more than this; so do the two most probable labels of one."""
WARMER = 1.5
"""Temperatures of the other version by those of the shipped one."""
SIDE = 28
"""Of the images."""


@dataclass(frozen=True)
class Expected:
    """Inputs of a model, and their answers in each of its versions."""

    name: str
    labels: tuple[str, ...]
    inputs: tuple[Input, ...]
    votes: Mapping[str, NDArray[np.float64]]
    """By version: calibrated votes of the first 1, 2, ... heads, [heads, inputs, classes]."""
    head_probabilities: Mapping[str, NDArray[np.float64]]
    """By version: greatest probability of each head, [heads, inputs]."""

    @property
    def heads_total(self) -> int:
        """Number of heads."""
        return len(next(iter(self.votes.values())))

    @property
    def is_text(self) -> bool:
        """Whether the inputs are texts."""
        return isinstance(self.inputs[0], str)

    def label(self, version: str, row: int, heads: int) -> str:
        """The right label."""
        return self.labels[int(self.votes[version][heads - 1, row].argmax())]

    def confidence(self, version: str, row: int, heads: int) -> float:
        """The right probability of that label."""
        return float(self.votes[version][heads - 1, row].max())

    def difference(
        self, version: str, row: int, heads: int, probability: float, head_probabilities: Sequence[float]
    ) -> float:
        """Greatest difference of an answer from the right one, over its probability and those of its heads."""
        found = [probability - self.confidence(version, row, heads)]
        right = self.head_probabilities[version]
        found += [each - right[head, row] for head, each in enumerate(head_probabilities)]
        return float(np.abs(found).max())


def expected_answers(folders: Sequence[Path], candidates: Sequence[Input], engine: str, *, cpu: int) -> Expected:
    """Predict all candidates with every number of heads and every version of a model; keep what can be told apart."""
    votes: dict[str, NDArray[np.float64]] = {}
    heads: dict[str, NDArray[np.float64]] = {}
    for folder in folders:
        manifest = Artifact.open(folder).manifest
        with BarePredictor(folder, engine, cpu=cpu, batch_sizes=(1,)) as bare:
            found = [bare.predict(candidates, Wish(heads=count + 1)) for count in range(len(manifest.heads))]
        votes[manifest.version] = np.array([[row.probabilities for row in rows] for rows in found])
        heads[manifest.version] = np.array([row.head_probabilities.max(axis=-1) for row in found[-1]]).T
    kept = distinct_rows(np.stack(list(votes.values())))
    return Expected(
        name=manifest.name,
        labels=manifest.labels,
        inputs=tuple(candidates[row] for row in kept),
        votes={version: found[:, kept] for version, found in votes.items()},
        head_probabilities={version: found[:, kept] for version, found in heads.items()},
    )


def distinct_rows(votes: NDArray[np.float64]) -> list[int]:
    """Rows of votes [versions, heads, rows, classes] with clear labels, whose answers can be told apart.

    Every two rows differ for each version and number of heads, and each row does between versions.
    """
    labels, best = votes.argmax(axis=-1), votes.max(axis=-1)
    second = np.partition(votes, -2, axis=-1)[..., -2]
    clear = (best - second > DISTINCT).all(axis=(0, 1))
    for one, other in itertools.combinations(range(len(votes)), 2):
        clear &= ((labels[one] != labels[other]) | (np.abs(best[one] - best[other]) > DISTINCT)).all(axis=0)
    kept: list[int] = []
    for row in np.flatnonzero(clear).tolist():
        alike = (labels[..., kept] == labels[..., [row]]) & (np.abs(best[..., kept] - best[..., [row]]) <= DISTINCT)
        if not alike.any():
            kept.append(row)
    return kept


def candidate_images(count: int, generator: np.random.Generator) -> list[Input]:
    """PNG files of garments laid over one another, of which the network is not sure."""
    files = sorted((REPOSITORY / "examples" / "fashion-mnist").glob("*.png"))
    garments = np.array([np.asarray(Image.open(file).convert("L").resize((SIDE, SIDE))) for file in files], np.float32)
    images: list[Input] = []
    for _ in range(count):
        one, other = garments[generator.choice(len(garments), 2, replace=False)]
        shifted = np.roll(other, generator.integers(-4, 5, 2), axis=(0, 1))
        weight = generator.uniform(0.2, 0.8)
        pixels = (weight * one + (1 - weight) * shifted).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        images.append(file.getvalue())
    return images


def candidate_texts(count: int, generator: np.random.Generator) -> list[Input]:
    """Texts of words from two genuine ones."""
    files = sorted((REPOSITORY / "examples" / "newsgroups").glob("*.txt"))
    words = [file.read_text(encoding="utf-8").split() for file in files]
    texts: list[Input] = []
    for _ in range(count):
        one, other = generator.choice(len(words), 2, replace=False)
        length = int(generator.integers(4, 40))
        texts.append(" ".join(generator.choice(words[one] + words[other], length)))
    return texts


def shipped_answers(models: Path, engine: str, *, cpu: int, count: int, seed: int) -> tuple[Expected, Expected]:
    """Inputs and answers of both shipped models in all their versions, which lie in `name/version/`.

    From `count` candidates each: images, then texts.
    """
    kinds = (("fashion-mnist", candidate_images), ("newsgroups", candidate_texts))
    images, texts = (
        expected_answers(
            sorted((models / name).iterdir()), candidates(count, np.random.default_rng(seed)), engine, cpu=cpu
        )
        for name, candidates in kinds
    )
    return images, texts


def write_versions(shipped: Path, models: Path) -> None:
    """Copy the shipped models to `name/version/`, and add a version of fashion-mnist that is less sure of itself."""
    for name in ("fashion-mnist", "newsgroups"):
        manifest = Artifact.open(shipped / name).manifest
        shutil.copytree(shipped / name, models / name / manifest.version)
    manifest = Artifact.open(shipped / "fashion-mnist").manifest
    other = models / "fashion-mnist" / f"{manifest.version}-warm"
    shutil.copytree(shipped / "fashion-mnist", other)
    calibration = manifest.calibration
    warmer = tuple(WARMER * temperature for temperature in calibration.temperatures)
    altered = manifest.model_copy(
        update={
            "version": other.name,
            "calibration": calibration.model_copy(update={"temperatures": warmer}),
        }
    )
    (other / MANIFEST).write_text(altered.to_json(), encoding="utf-8")
