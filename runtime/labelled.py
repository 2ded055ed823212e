"""A prediction with labels in place of arrays: what people and JSON get to see, from an engine here or from a server.

Standard library only, so that the client of the server may use it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RankedLabel:
    """A class and its probability."""

    label: str
    index: int
    """Position of the class in the model's labels."""
    probability: float


@dataclass(frozen=True)
class HeadOpinion:
    """What one head says on its own."""

    head: int
    """Position in voting order."""
    label: str
    """The head's most probable class."""
    probability: float
    """The head's own, uncalibrated probability of that class."""


@dataclass(frozen=True)
class LabelledPrediction:
    """The answer for one input."""

    label: str
    index: int
    probability: float
    """Calibrated probability that the voting heads together give to the label."""
    top_k: tuple[RankedLabel, ...]
    """The most probable classes, best first."""
    heads_used: int
    heads_total: int
    stopped_by: str
    """Why it was that number of heads: all, requested, early_exit, load or deadline."""
    disagreement: float | None
    """Fraction of the pairs of voting heads that differ in their top label; None for one head."""
    heads: tuple[HeadOpinion, ...]

    def lines(self, name: str) -> list[str]:
        """Lines for people about the input `name`: the vote, how it came about, and what each head says."""
        vote = ", ".join(f"{each.label} {each.probability:.1%}" for each in self.top_k)
        differ = "" if self.disagreement is None else f", disagreement {self.disagreement:.2f}"
        voters = f"{self.heads_used} of {self.heads_total} heads ({self.stopped_by}){differ}"
        heads = [f"  head {each.head}: {each.label} {each.probability:.1%}" for each in self.heads]
        return [f"{name}: {vote}; {voters}", *heads]
