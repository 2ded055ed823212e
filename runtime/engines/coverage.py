"""Kernel coverage: how much of an artifact's work an engine does in kernels made for it. A slow path must show."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

NAMED = 3
"""How many slow layers a note names."""


@dataclass(frozen=True)
class Coverage:
    """Share of the work in accelerated kernels: for the precision of execution, and not a plain reference loop."""

    share: float
    """0 to 1."""
    unit: Literal["multiply-adds", "operators"]
    """What is counted: multiply-adds of convolutions and matrix products, as if dense, or what the engine does tell."""
    slow: tuple[str, ...] = ()
    """Names of the layers in other kernels, where the engine tells them."""

    @property
    def note(self) -> str | None:
        """What a user should know; None where everything is accelerated."""
        if self.share >= 1:
            return None
        named = ", ".join(self.slow[:NAMED]) + (f" and {len(self.slow) - NAMED} more" * (len(self.slow) > NAMED))
        return f"{1 - self.share:.1%} of its {self.unit} run in slow kernels" + (f": {named}" if named else "")


@dataclass(frozen=True)
class Layer:
    """A convolution or a matrix product as an engine runs it."""

    name: str
    macs: int
    """Multiply-adds, as if dense."""
    accelerated: bool


def coverage_of(layers: Iterable[Layer]) -> Coverage:
    """Coverage of layers; all of it where there are none."""
    layers = list(layers)
    total = sum(layer.macs for layer in layers)
    slow = [layer for layer in layers if not layer.accelerated]
    share = sum(layer.macs for layer in layers if layer.accelerated) / total if total else 1.0
    return Coverage(share, "multiply-adds", tuple(dict.fromkeys(layer.name for layer in slow)))
