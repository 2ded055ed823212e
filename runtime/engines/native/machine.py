"""What the planner knows of a processor: registers and speeds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InstructionSet:
    """What to generate code for, and to plan for."""

    name: str
    cpu: str
    features: str
    registers: int
    """Vectors of 16 lanes that fit into the registers."""

    @property
    def max_vectors(self) -> int:
        """Most vectors of a tile of the sparse kernel: more gain nothing."""
        return min(8, self.registers - 1)

    def panel_rows(self, vectors: int) -> int:
        """Output channels that the dense kernel computes together: sums, lanes and a weight fill the registers, and
        addresses of rows the others."""
        return max(1, min(9, (self.registers - 1 - vectors) // vectors))
