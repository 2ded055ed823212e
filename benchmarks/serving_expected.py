"""What every answer must be: inputs for the shipped models, and their answers by a bare predictor, for all heads.

    expected = expected_answers(bare, artifact, candidates)
    expected.difference(row=3, heads=2, label="Bag", probability=0.91, head_probabilities=(0.9, 0.8))

Inputs are chosen so that their answers differ by far more than the tolerance, whatever number of heads votes: an answer
that went to the wrong request cannot pass for the right one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from environment import REPOSITORY
from runtime.artifact import Artifact
from runtime.predictor import Wish
from runtime.preprocess import Input, TextPreprocessor
from serving_bare import BarePredictor

TOLERANCE = 1e-4
"""Most that a probability may differ from the precomputed one: rows are computed in batches of other sizes."""
DISTINCT = 5 * TOLERANCE
"""Answers of two inputs with the same label differ by more than this; so do the two most probable labels of one."""
SIDE = 28
"""Of the images."""


@dataclass(frozen=True)
class Expected:
    """Inputs of one version of a model, and their answers."""

    name: str
    version: str
    labels: tuple[str, ...]
    inputs: tuple[Input, ...]
    votes: NDArray[np.float64]
    """Calibrated votes of the first 1, 2, ... heads: [heads, inputs, classes]."""
    head_probabilities: NDArray[np.float64]
    """Greatest probability of each head: [heads, inputs]."""

    @property
    def heads_total(self) -> int:
        """Number of heads."""
        return len(self.votes)

    @property
    def is_text(self) -> bool:
        """Whether the inputs are texts."""
        return isinstance(self.inputs[0], str)

    def label(self, row: int, heads: int) -> str:
        """The right label."""
        return self.labels[int(self.votes[heads - 1, row].argmax())]

    def confidence(self, row: int, heads: int) -> float:
        """The right probability of that label."""
        return float(self.votes[heads - 1, row].max())

    def difference(self, row: int, heads: int, probability: float, head_probabilities: Sequence[float]) -> float:
        """Greatest difference of an answer from the right one, over its probability and those of its heads."""
        found = [probability - self.confidence(row, heads)]
        found += [each - self.head_probabilities[head, row] for head, each in enumerate(head_probabilities)]
        return float(np.abs(found).max())


def expected_answers(bare: BarePredictor, artifact: Artifact, candidates: Sequence[Input]) -> Expected:
    """Predict all candidates with every number of heads, and keep those that can be told apart."""
    manifest = artifact.manifest
    predictions = [bare.predict(candidates, Wish(heads=heads + 1)) for heads in range(len(manifest.heads))]
    votes = np.array([[row.probabilities for row in rows] for rows in predictions])
    heads = np.array([row.head_probabilities.max(axis=-1) for row in predictions[-1]]).T
    kept = distinct_rows(votes)
    return Expected(
        name=manifest.name,
        version=manifest.version,
        labels=manifest.labels,
        inputs=tuple(candidates[row] for row in kept),
        votes=votes[:, kept],
        head_probabilities=heads[:, kept],
    )


def distinct_rows(votes: NDArray[np.float64]) -> list[int]:
    """Rows of votes [heads, rows, classes] with a clear label, every two of which differ for each number of heads."""
    labels, best = votes.argmax(axis=-1), votes.max(axis=-1)
    second = np.partition(votes, -2, axis=-1)[..., -2]
    kept: list[int] = []
    for row in range(votes.shape[1]):
        alike = (labels[:, kept] == labels[:, [row]]) & (np.abs(best[:, kept] - best[:, [row]]) <= DISTINCT)
        if not alike.any() and (best[:, row] - second[:, row] > DISTINCT).all():
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


def shipped_answers(
    models: Path, engine: str, *, cpu: int, batch_sizes: tuple[int, ...], count: int, seed: int
) -> tuple[Expected, ...]:
    """Inputs and answers of both shipped models, from `count` candidates each."""
    found = []
    for name in ("fashion-mnist", "newsgroups"):
        generator = np.random.default_rng(seed)
        artifact = Artifact.open(models / name)
        is_text = isinstance(artifact.preprocessor, TextPreprocessor)
        candidates = (candidate_texts if is_text else candidate_images)(count, generator)
        with BarePredictor(models / name, engine, cpu=cpu, batch_sizes=batch_sizes) as bare:
            found.append(expected_answers(bare, artifact, candidates))
    return tuple(found)
