"""The cost model: estimated seconds of a layer on one thread, from which the planner chooses kernel, tile and block.

`benchmarks/native_costs.py` measures layers and fits the constants, on a core with AVX-512 at 3.7 GHz; see
docs/native-engine.md. Choices depend on their ratios only.
"""

from dataclasses import dataclass

NANO = 1e-9


@dataclass(frozen=True)
class Costs:
    """The constants, in seconds unless said otherwise.

    Given `far_bytes`, estimates are linear in them; those of the dense kernel given `near` and `far`, too.
    """

    near: float = 0.178 * NANO
    """Multiply-add with a vector of lanes in the first cache."""
    far: float = 0.364 * NANO
    """Multiply-add with a vector of lanes in the second cache."""
    far_bytes: float = 182 * 1024
    """Input of a block, in bytes, of which hardly anything is in the first cache when it is needed."""
    weight: float = 0.476 * NANO
    """Sparse kernel: to read a weight and its offset."""
    sparse_sum: float = 0.563 * NANO
    """Sparse kernel: to begin and end a sum in one block, for each vector; half of it where there is one block only."""
    multiply: float = 0.121 * NANO
    """Dense kernel: a multiply-add of registers."""
    step: float = 1.3 * NANO
    """Dense kernel: one step over the inputs."""
    lanes: float = 0.17
    """Dense kernel: the share of loads that is not hidden."""
    dense_sum: float = 0.635 * NANO
    """Dense kernel: as `sparse_sum`."""

    def stream_seconds(self, kept: float, rows: int, vectors: int, blocks: int, resident: float) -> float:
        """Sparse kernel, one tile of so many vectors.

        There are `kept` weights in `rows` rows; `resident` are the input bytes of a block.
        """
        return kept * (self.weight + vectors * self._load(resident)) + _sums(rows, vectors, blocks) * self.sparse_sum

    def dense_seconds(self, weights: float, rows: int, vectors: int, blocks: int, resident: float, panel: int) -> float:
        """Dense kernel, one tile: `weights` in `rows` rows, of which `panel` are computed together."""
        step = panel * vectors * self.multiply + self.step + self.lanes * vectors * self._load(resident)
        return weights / panel * step + _sums(rows, vectors, blocks) * self.dense_sum

    def _load(self, resident: float) -> float:
        return self.near + min(1.0, resident / self.far_bytes) * (self.far - self.near)


COSTS = Costs()
"""What the planner goes by."""


def _sums(rows: int, vectors: int, blocks: int) -> float:
    return rows * vectors * (blocks if blocks > 1 else 0.5)
