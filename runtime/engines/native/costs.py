"""The cost model: estimated seconds of a layer on one thread, from which the planner chooses kernel, tile and block.

The constants were fitted to some 600 measured layers on a core with AVX-512 at 3.7 GHz (root mean square error 12 %);
see docs/native-engine.md. Choices depend on their ratios only.
"""

NANO = 1e-9
NEAR, FAR = 0.178 * NANO, 0.364 * NANO
"""Multiply-add with a vector of lanes in the first, and in the second cache."""
FAR_BYTES = 182 * 1024
"""Input of a block of which hardly anything is in the first cache when it is needed."""
WEIGHT = 0.476 * NANO
"""Sparse kernel: to read a weight and its offset."""
SPARSE_SUM = 0.563 * NANO
"""Sparse kernel: to begin and end a sum in one block, for each vector; half of it where there is one block only."""
MULTIPLY, STEP, LANES = 0.121 * NANO, 1.3 * NANO, 0.17
"""Dense kernel: a multiply-add of registers, one step over the inputs, and the share of loads that is not hidden."""
DENSE_SUM = 0.635 * NANO
"""Dense kernel: as SPARSE_SUM."""


def stream_seconds(kept: float, rows: int, vectors: int, blocks: int, resident: float) -> float:
    """Sparse kernel, one tile of so many vectors: `kept` weights in `rows` rows, `resident` input bytes in a block."""
    return kept * (WEIGHT + vectors * _load(resident)) + _sums(rows, vectors, blocks) * SPARSE_SUM


def dense_seconds(weights: float, rows: int, vectors: int, blocks: int, resident: float, panel: int) -> float:
    """Dense kernel, one tile: `weights` in `rows` rows, of which `panel` are computed together."""
    step = panel * vectors * MULTIPLY + STEP + LANES * vectors * _load(resident)
    return weights / panel * step + _sums(rows, vectors, blocks) * DENSE_SUM


def _load(resident: float) -> float:
    return NEAR + min(1.0, resident / FAR_BYTES) * (FAR - NEAR)


def _sums(rows: int, vectors: int, blocks: int) -> float:
    return rows * vectors * (blocks if blocks > 1 else 0.5)
