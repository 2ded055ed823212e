"""What the page holds, as typed objects, and how it becomes HTML. The template decides only how things look."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.pages.rendering import Figure, Table, render_page


@dataclass(frozen=True)
class Cell:
    """A number in a coloured table; `shade` from 0 to 1."""

    text: str
    shade: float
    own: bool = False
    """On the diagonal."""
    hint: str = ""


@dataclass(frozen=True)
class Matrix:
    """A coloured table: rows and columns have the same names."""

    names: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    totals: tuple[str, Sequence[str]]
    """Title and texts of a last column."""


@dataclass(frozen=True)
class Opinion:
    """What each head gives one class of an example."""

    label: str
    true: bool
    probabilities: Sequence[float]


@dataclass(frozen=True)
class Example:
    """One held-out example and what the heads say of it."""

    row: int
    picture: str | None
    """A data: URI."""
    text: str | None
    note: str
    """What was cut or reduced; empty if nothing was."""
    truth: str
    vote: str
    summary: str
    opinions: Sequence[Opinion]


@dataclass(frozen=True)
class Predictions:
    """Everything that needs the data."""

    part: str
    rows: int
    scores: Table
    agreement: Matrix | None
    """None for a single head."""
    reliability: Sequence[Figure]
    selective: Sequence[Figure]
    """Exit curve and risk-coverage curve."""
    examples: Sequence[Example]
    confusion: Matrix | None
    """None when there are too many classes to show."""
    confused: Table
    """The pairs of classes that are confused most."""


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    facts: Sequence[tuple[str, str]]
    labels: Sequence[str]
    configuration: str
    """YAML; empty when there is no checkpoint."""
    notes: Sequence[str]
    """What is missing, and why."""
    curves: Sequence[Figure]
    layers: Sequence[Figure]
    predictions: Predictions | None


def render(page: Page) -> str:
    """The page as HTML: self-contained, and the same bytes for the same content."""
    return render_page(Path(__file__).with_name("page.html.j2"), page=page)
