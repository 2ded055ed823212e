"""Read metrics.jsonl: what a run logged while it trained.

log = read_log(Path("runs/first"))
[line.loss for line in log.steps]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class StepLine(BaseModel):
    """Logged every few steps."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["step"]
    step: int
    loss: float
    lr: float
    prune_rate: float | None = None
    density: float | None = None
    """Weights kept of all covered weights."""
    explored: float | None = None
    """Weights that were ever active, of all covered weights (ITOP, arXiv 2102.02887)."""


class UpdateLine(BaseModel):
    """Logged at each mask update."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["update"]
    step: int
    moved: int
    """Weights that became active."""


class EvaluationLine(BaseModel):
    """Logged after each epoch, measured on the select part."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["evaluation"]
    step: int
    epoch: int
    accuracy: float
    nll: float
    head_accuracy: tuple[float, ...]
    disagreement: float | None
    layers: Mapping[str, tuple[int, int, int]] = {}
    """Weight name, in network order -> weights kept, weights ever active, weights."""


LINE: TypeAdapter[StepLine | UpdateLine | EvaluationLine] = TypeAdapter(
    Annotated[StepLine | UpdateLine | EvaluationLine, Field(discriminator="kind")]
)


@dataclass(frozen=True)
class RunLog:
    """The log of one run, or of one member of a run of several."""

    steps: tuple[StepLine, ...] = ()
    updates: tuple[UpdateLine, ...] = ()
    evaluations: tuple[EvaluationLine, ...] = ()
    unreadable: int = 0
    """Lines that could not be read, such as the last one of a run that was killed while it wrote."""

    def __bool__(self) -> bool:
        return bool(self.steps or self.updates or self.evaluations)


def read_log(folder: Path) -> RunLog:
    """Read the log of a run folder; an empty one when nothing has been logged."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return RunLog()
    lines: list[StepLine | UpdateLine | EvaluationLine] = []
    unreadable = 0
    for text in path.read_bytes().splitlines():
        try:
            lines.append(LINE.validate_json(text))
        except ValidationError:
            unreadable += 1
    return RunLog(
        steps=tuple(line for line in lines if isinstance(line, StepLine)),
        updates=tuple(line for line in lines if isinstance(line, UpdateLine)),
        evaluations=tuple(line for line in lines if isinstance(line, EvaluationLine)),
        unreadable=unreadable,
    )


def read_members(run: Path) -> dict[str, RunLog]:
    """Read the logs of the members of a run, by their names "0", "1", ...; empty when it has no members."""
    folders = [folder for folder in (run / "members").glob("*") if folder.is_dir() and folder.name.isdecimal()]
    return {folder.name: read_log(folder) for folder in sorted(folders, key=lambda folder: int(folder.name))}
