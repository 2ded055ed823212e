"""What passes between the edges of the server and its core: a `Work` in, an `Answer` out. Knows no HTTP."""

import time
from dataclasses import dataclass
from typing import Literal

from runtime.engines.base import EngineInfo
from runtime.manifest import Manifest
from runtime.predictor import Prediction, Wish
from runtime.preprocess import Input
from server.errors import DeadlineExceeded

Modality = Literal["image", "text"]


def modality_of(value: Input) -> Modality:
    """Whether an input is an image or a text."""
    return "text" if isinstance(value, str) else "image"


@dataclass(frozen=True)
class Deadline:
    """Until when a request must be answered."""

    arrived: float
    """`time.monotonic()` when its headers had arrived."""
    timeout_seconds: float

    @property
    def at(self) -> float:
        """`time.monotonic()` after which nobody waits any more."""
        return self.arrived + self.timeout_seconds

    def seconds_left(self) -> float:
        """Seconds until then, more than 0. Raises DeadlineExceeded."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceeded:
        """Return the error of a request that was not answered in time."""
        return DeadlineExceeded(
            "deadline_exceeded", f"There was no answer within the timeout of {1000 * self.timeout_seconds:g} ms."
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """One request for predictions: one or more inputs of one modality, for one model."""

    id: str
    inputs: tuple[Input, ...]
    model: str | None
    """Name of the model; None: the only one of the inputs' modality."""
    wish: Wish
    started: float
    """`time.perf_counter()` when the whole request had arrived."""
    deadline: Deadline
    """From `Core.deadline`."""


@dataclass(frozen=True)
class ModelCard:
    """A served model as clients may know it."""

    manifest: Manifest
    engine: EngineInfo
    is_default: bool
    """It answers requests of its modality that name no model."""
    min_heads: int
    """Fewest heads that vote under load; the number of heads where none is ever shed."""


@dataclass(frozen=True)
class Timing:
    """Seconds spent on one request, from the arrival of its last byte."""

    decode_seconds: float
    queue_seconds: float
    compute_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Answer:
    """One prediction per input, in the order of the inputs, with the model that made them."""

    id: str
    card: ModelCard
    predictions: tuple[Prediction, ...]
    timing: Timing
