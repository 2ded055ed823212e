"""What an engine costs: seconds of the trunk and of each head by batch size, and from them of any number of rows.

costs = measure_costs(engine, budget_seconds=1.0)
costs.seconds(rows=9, heads=2), costs.head_seconds(2, rows=3)
"""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.preprocess import Batch
from runtime.split import split

if TYPE_CHECKING:  # engines are chosen by tunings, and tunings hold costs
    from runtime.engines.base import Engine

LEAST_ROUNDS = 3
"""Rounds of `measure_costs` whatever its budget: a median of fewer would not withstand one disturbed call."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1)]


class CostSurface(BaseModel):
    """Measured seconds of one call, by batch size, for one token length; the engine does nothing else meanwhile.

    Every tuple of seconds goes with `batch_sizes`. The costs of other numbers of rows are those of the cheapest split
    into these sizes, padding included, as engines compute them; so they never fall when rows are added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Annotated[int, Field(ge=0)] = 0
    """Length of the texts; 0 unless the artifact reads texts."""
    batch_sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    """In ascending order."""
    trunk: tuple[Seconds, ...]
    """Zeros without a trunk."""
    heads: Annotated[tuple[tuple[Seconds, ...], ...], Field(min_length=1)]
    """One tuple for each head, in voting order."""
    at_once: tuple[tuple[Seconds, ...], ...] | None = None
    """Of the trunk and the first 1, 2, ... heads as one program; None for engines that run them one by one anyway."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        if list(self.batch_sizes) != sorted(set(self.batch_sizes)):
            raise ValueError("batch_sizes must be in strictly ascending order")
        programs = self.at_once or ()
        if {len(seconds) for seconds in (self.trunk, *self.heads, *programs)} != {len(self.batch_sizes)}:
            raise ValueError(f"{len(self.batch_sizes)} batch sizes need as many costs of each stage")
        if self.at_once is not None and len(self.at_once) != len(self.heads):
            raise ValueError(f"at_once needs one entry for each of {len(self.heads)} heads, not {len(self.at_once)}")
        if any(np.less(more, fewer).any() for fewer, more in pairwise(programs)):
            raise ValueError("at_once must not fall when heads are added")
        return self

    def seconds(self, rows: int, heads: int) -> float:
        """Seconds of the trunk and the first `heads` heads over `rows`, when all rows want the same heads.

        Never falls when rows or heads are added. Raises ValueError for negative rows, or heads that there are not.
        """
        if not 1 <= heads <= len(self.heads):
            raise ValueError(f"heads must be from 1 to {len(self.heads)}, not {heads}")
        if self.at_once is not None:
            return self._lowest(self.at_once[heads - 1], rows)
        return self.trunk_seconds(rows) + sum(self.head_seconds(index, rows) for index in range(heads))

    def trunk_seconds(self, rows: int) -> float:
        """Seconds of the trunk alone, as early exit runs it."""
        return self._lowest(self.trunk, rows)

    def head_seconds(self, index: int, rows: int) -> float:
        """Seconds of head `index` (in voting order) alone over the rows that still want it, as early exit runs it."""
        return self._lowest(self.heads[index], rows)

    def _lowest(self, seconds: tuple[float, ...], rows: int) -> float:
        if rows < 0:
            raise ValueError(f"rows must not be negative, not {rows}")
        return _lowest_cost(self.batch_sizes, seconds, rows)


@lru_cache(maxsize=4096)
def _lowest_cost(sizes: tuple[int, ...], seconds: tuple[float, ...], rows: int) -> float:
    """Kept between calls, because the server asks for the same few again and again."""
    costs = dict(zip(sizes, seconds, strict=True))
    return sum((costs[size] for size in split(rows, costs)), start=0.0)


def measure_costs(engine: "Engine", *, budget_seconds: float, tokens: int | None = None) -> CostSurface:
    """Time every stage at every size until the budget is spent, but at least `LEAST_ROUNDS` times.

    For texts of `tokens` tokens, by default the greatest length, which is what a cautious server should plan for.
    Rounds visit everything once in a fresh order, so that a disturbance of the machine hits all alike and no stage
    finds the caches as it left them. The result is the median: what a call usually takes here, noise included, and
    not the least, which a promise to a client could not rely on. Of programs of several heads the result never falls
    with more heads: where noise says so, both cost the greater one.
    """
    tokens = max(engine.lengths, default=0) if tokens is None else tokens
    has_trunk = engine.artifact.manifest.trunk is not None
    heads = range(len(engine.artifact.manifest.heads))
    calls: list[Callable[[], object]] = []
    for size in engine.sizes:
        inputs = sample_inputs(engine, size, tokens)
        features = engine.trunk(inputs)
        if has_trunk:
            calls.append(partial(engine.trunk, inputs))
        calls += [partial(engine.head, index, features) for index in heads]
        if engine.one_program:
            calls += [partial(engine.logits, inputs, index + 1) for index in heads]
    seconds = np.median(_time_in_rounds(calls, budget_seconds), axis=0).reshape(len(engine.sizes), -1)
    if not has_trunk:
        seconds = np.concatenate([np.zeros((len(seconds), 1)), seconds], axis=1)
    at_once = np.maximum.accumulate(seconds[:, 1 + len(heads) :], axis=1)
    return CostSurface(
        tokens=tokens,
        batch_sizes=engine.sizes,
        trunk=tuple(seconds[:, 0].tolist()),
        heads=tuple(tuple(seconds[:, 1 + index].tolist()) for index in heads),
        at_once=tuple(tuple(column.tolist()) for column in at_once.T) if engine.one_program else None,
    )


def sample_inputs(engine: "Engine", rows: int, tokens: int) -> Batch:
    """Inputs to time an engine with: the artifact's reference inputs, repeated to `rows` (and `tokens`, for texts).

    Not zeros or ones: with vanishing activations some engines need other times than with live ones.
    """
    reference = engine.artifact.reference()
    sizes = {"batch": rows, "tokens": tokens}
    inputs: dict[str, NDArray[np.generic]] = {}
    for spec in engine.artifact.manifest.inputs:
        tensor = reference[f"input.{spec.name}"]
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                tensor = np.take(tensor, np.arange(sizes[size]) % tensor.shape[axis], axis=axis)
        inputs[spec.name] = np.ascontiguousarray(tensor)
    return inputs


def _time_in_rounds(calls: list[Callable[[], object]], budget_seconds: float) -> NDArray[np.float64]:
    """Seconds of every call, [rounds, calls]."""
    generator = np.random.default_rng(0)
    rounds: list[NDArray[np.float64]] = []
    deadline = time.monotonic() + budget_seconds
    while len(rounds) < LEAST_ROUNDS or time.monotonic() < deadline:
        seconds = np.empty(len(calls))
        for index in generator.permutation(len(calls)):
            started = time.perf_counter()
            calls[index]()
            seconds[index] = time.perf_counter() - started
        rounds.append(seconds)
    return np.stack(rounds)
