"""One result file for each run of the study: what was trained, where, at what cost, and what it is worth."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from accuracy_grid import SEEDS, Entry, grid
from accuracy_processes import Times
from environment import Environment
from runtime.errors import NeurotrailsError
from runtime.files import atomic_write

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class ResultError(NeurotrailsError):
    """Result files are damaged, or do not go together."""


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(Record):
    """What the vote of all heads is worth on one part of the data, at the temperature of the calibrate part."""

    part: str
    rows: Count
    accuracy: Fraction
    nll: float
    """Nats, calibrated; so are Brier score (summed over classes), ECE (15 bins) and AURC."""
    brier: float
    ece: float
    adaptive_ece: float
    aurc: float
    """Area under the risk-coverage curve: mean error when only the most confident rows are answered."""
    uncalibrated_nll: float
    uncalibrated_ece: float
    temperature: float
    head_accuracy: tuple[Fraction, ...]
    disagreement: Fraction | None
    """Mean over pairs of heads of "top class differs"; None for one head. So is `kl`."""
    kl: float | None
    """Mean over ordered pairs of heads of the divergence KL(p || q), nats."""
    right: str
    """Which rows the vote gets right, in stored order: bits packed and written in base64; see `right_rows`."""

    def right_rows(self) -> NDArray[np.bool_]:
        """Whether the vote is right, bool [rows]."""
        bits = np.frombuffer(base64.b64decode(self.right), dtype=np.uint8)
        return np.unpackbits(bits, count=self.rows).astype(bool)


def pack_rows(right: NDArray[np.bool_]) -> str:
    """Pack bool [rows] for `Quality.right`."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


class Cost(Record):
    """What a network costs. MACs are those of convolutions, linear layers and attention, for one example."""

    weights: Count
    """All entries of all parameters: norms, biases and embeddings included."""
    non_zeros: Count
    """The same without entries that a mask takes away."""
    covered_weights: Count
    """Entries that the sparsity budget covers: those of convolutions and linear layers, of embeddings if asked for."""
    covered_non_zeros: Count
    inference_macs: Count
    training_macs: Count
    """Of all steps of the run, dense gradients for regrowth included."""
    inference_macs_to_dense: float
    """Times those of one dense network of the same recipe; so is the next."""
    training_macs_to_dense: float


class Training(Record):
    """How the run was trained."""

    times: Times
    steps: Count
    """Optimizer steps, those of all members added up."""
    best_step: Count | None
    """Step of the checkpoint that is measured, chosen on the select part; of an ensemble, the last."""
    epochs: Count
    """Of the recipe."""
    threads: Count
    data_sha256: str
    code_version: str
    config_sha256: str


class Measured(Record):
    """What a measuring process found on one part."""

    cost: Cost
    training: Training
    quality: Quality


class RunResult(Record):
    """One run of the study."""

    smoke: bool
    """Whether the run only shows that the code works; its numbers mean nothing."""
    entry: Entry
    recipe: str
    overrides: tuple[str, ...]
    settings_sha256: str
    """Hash of the recipe's content and the overrides: a result of other settings is not counted as done."""
    environment: Environment
    training: Training
    cost: Cost
    report: Quality
    """Everything that is chosen is chosen on this part."""
    test: Quality | None = None
    """Measured once, when there is nothing left to train; None until then."""


def write_result(path: Path, result: RunResult) -> None:
    """Write a result file atomically."""
    atomic_write(path, (result.model_dump_json(indent=1) + "\n").encode())


def read_result(path: Path) -> RunResult | None:
    """Read a result file; None where there is none. Raises ResultError."""
    try:
        return RunResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ResultError(f"{path} is not a result of the study: {error}. Remove it to measure anew.") from error


def read_results(folder: Path) -> tuple[RunResult, ...]:
    """All results below a folder, in the order of the grid. Raises ResultError when only some of them are smoke."""
    results = [result for path in sorted(folder.glob("*/*.json")) if (result := read_result(path)) is not None]
    if len({result.smoke for result in results}) > 1:
        raise ResultError(f"{folder} holds results of smoke runs among genuine ones. Remove the smoke results.")
    return _in_order(results)


def _in_order(results: Sequence[RunResult]) -> tuple[RunResult, ...]:
    """Results in the order of the grid; those that the grid does not hold any more come last."""
    entries = grid(seeds=sorted({result.entry.seed for result in results}) or SEEDS)
    place = {entry.name: index for index, entry in enumerate(entries)}
    return tuple(sorted(results, key=lambda result: place.get(result.entry.name, len(place))))
