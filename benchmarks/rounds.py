"""What is measured, and in which order: panels of subjects, visited in rounds of fresh random order.

Subjects that are compared share a panel (one network at one batch size, on every engine): each round visits all of them
once, so that they see the same state of the machine. Rounds of different panels alternate.
"""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np

Kind = Literal["sparse", "dense"]
KINDS: tuple[Kind, ...] = ("sparse", "dense")

Timed = TypeVar("Timed", bound=Hashable)
"""What a benchmark times: `Subject`, or a type of its own."""


@dataclass(frozen=True)
class Subject:
    """One thing to time: the first `heads` heads of a network on an engine at a batch size.

    `sparse` is the sparse multi-head network. `dense` is the dense ensemble of the same architecture, whose heads are
    whole networks without a common trunk; its first head alone is the single dense network.
    """

    network: str
    engine: str
    batch: int
    kind: Kind
    heads: int
    heads_total: int

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        if self.kind == "sparse":
            return f"sparse, {self.heads} of {self.heads_total} heads"
        return "dense, single" if self.heads == 1 else f"dense, ensemble of {self.heads}"

    @property
    def is_baseline(self) -> bool:
        """Whether it is the dense full ensemble that others are compared with."""
        return self.kind == "dense" and self.heads == self.heads_total


@dataclass
class Panel(Generic[Timed]):
    """Subjects that are compared with each other, and what was measured: `calls[subject][round]` in seconds."""

    name: str
    subjects: tuple[Timed, ...]
    calls: dict[Timed, list[list[float]]] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0
    """Wall-clock time spent in its rounds."""

    def __post_init__(self) -> None:
        self.calls = {subject: [] for subject in self.subjects}

    @property
    def urgency(self) -> tuple[float, int]:
        """Sorts panels by who is next: rounds in proportion to 1 / sqrt(seconds of a round).

        That spends a budget so that the summed variance of all panels is least (Neyman allocation): cheap panels get
        more rounds, dear ones more time.
        """
        return (math.sqrt(self.rounds * self.seconds), self.rounds)


def subjects_of(network: str, engine: str, batch: int, heads_total: int) -> list[Subject]:
    """Sparse network with 1 to M heads, the single dense network and the dense ensemble of M."""
    sparse = [Subject(network, engine, batch, "sparse", heads, heads_total) for heads in range(1, heads_total + 1)]
    dense = [Subject(network, engine, batch, "dense", heads, heads_total) for heads in sorted({1, heads_total})]
    return sparse + dense


def run_rounds(
    panels: Sequence[Panel[Timed]],
    measure: Callable[[Timed], list[float]],
    *,
    at_least: int,
    enough: Callable[[], bool],
    generator: np.random.Generator,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Callable[[Panel[Timed]], None] = lambda _: None,
) -> None:
    """Measure rounds until every panel has `at_least` of them and `enough()`; fills the panels."""
    while True:
        late = [panel for panel in panels if panel.rounds < at_least]
        if not late and enough():
            return
        panel = min(late or panels, key=lambda panel: panel.urgency)
        started = clock()
        for index in generator.permutation(len(panel.subjects)):
            subject = panel.subjects[index]
            panel.calls[subject].append(measure(subject))
        panel.rounds += 1
        panel.seconds += clock() - started
        after_round(panel)
