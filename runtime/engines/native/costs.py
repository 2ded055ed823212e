"""The cost model: estimated seconds of a layer on one thread, from which the planner chooses kernel, tile and block.

The constants are times of single operations on a core with AVX-512, fitted to measured layers; see
docs/native-engine.md. Choices need only their ratios, so they also serve machines with other registers.
"""

NANO = 1e-9
LOAD_NEAR, LOAD_FAR = 0.205 * NANO, 0.42 * NANO
"""Multiply-add with a vector in memory, in the first and in the second cache."""
NEAR_BYTES, FAR_BYTES = 24 * 1024, 96 * 1024
"""Input of a block that is near for sure, and that is far for sure."""
MULTIPLY = 0.132 * NANO
"""Multiply-add of registers."""
LATENCY = 1.08 * NANO
"""Least time from one multiply-add of a sum to the next."""
ROW, ROW_VECTOR = 4.5 * NANO, 0.75 * NANO
"""To begin and end a row of a block, and for each vector of its sums."""


def _load(resident: float) -> float:
    share = min(1.0, max(0.0, (resident - NEAR_BYTES) / (FAR_BYTES - NEAR_BYTES)))
    return LOAD_NEAR + share * (LOAD_FAR - LOAD_NEAR)


def stream_seconds(kept: float, rows: int, vectors: int, blocks: int, resident: float) -> float:
    """Sparse kernel, one tile of so many vectors: `kept` weights in `rows` rows, `resident` input bytes in a block."""
    weight = max(LATENCY, LOAD_NEAR + vectors * _load(resident))
    return kept * weight + rows * blocks * (ROW + vectors * ROW_VECTOR)


def dense_seconds(weights: float, rows: int, vectors: int, blocks: int, resident: float, panel: int) -> float:
    """Dense kernel, one tile: `weights` in `rows` rows, of which `panel` are computed together."""
    step = max(panel * vectors * MULTIPLY, panel * LOAD_NEAR + vectors * _load(resident), LATENCY)
    return weights / panel * step + rows * blocks * (ROW / panel + vectors * ROW_VECTOR)
