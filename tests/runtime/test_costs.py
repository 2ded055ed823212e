from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from runtime.artifact import Artifact
from runtime.costs import LEAST_ROUNDS, CostSurface, measure_costs, sample_inputs
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions, Features, Tensors
from tests.runtime.conftest import CORES

Columns = tuple[tuple[float, ...], ...]


@st.composite
def surfaces(draw: st.DrawFn) -> CostSurface:
    sizes = tuple(sorted(draw(st.sets(st.integers(1, 8), min_size=1, max_size=3))))
    column = st.tuples(*[st.floats(0, 10) for _ in sizes])
    heads = draw(st.lists(column, min_size=1, max_size=3).map(tuple))
    at_once: Columns | None = None
    if draw(st.booleans()):
        added = draw(st.lists(column, min_size=len(heads), max_size=len(heads)))
        at_once = tuple(map(tuple, np.cumsum(added, axis=0).tolist()))
    return CostSurface(batch_sizes=sizes, trunk=draw(column), heads=heads, at_once=at_once)


def brute_force(surface: CostSurface, seconds: tuple[float, ...], rows: int) -> float:
    """The cheapest of all ways to cover `rows` with up to `rows` pieces."""
    if not rows:
        return 0.0
    costs = dict(zip(surface.batch_sizes, seconds, strict=True))
    return min(
        sum(costs[size] for size in sizes)
        for count in range(1, rows + 1)
        for sizes in combinations_with_replacement(surface.batch_sizes, count)
        if sum(sizes) >= rows
    )


@given(surfaces(), st.integers(0, 7), st.data())
def test_rows_cost_their_cheapest_split(surface: CostSurface, rows: int, data: st.DataObject) -> None:
    heads = data.draw(st.integers(1, len(surface.heads)))
    alone = [brute_force(surface, seconds, rows) for seconds in (surface.trunk, *surface.heads)]
    assert surface.trunk_seconds(rows) == pytest.approx(alone[0])
    assert [surface.head_seconds(index, rows) for index in range(len(surface.heads))] == pytest.approx(alone[1:])
    if surface.at_once is None:
        assert surface.seconds(rows, heads) == pytest.approx(sum(alone[: 1 + heads]))
    else:
        assert surface.seconds(rows, heads) == pytest.approx(brute_force(surface, surface.at_once[heads - 1], rows))


@given(surfaces(), st.integers(0, 40), st.integers(0, 40))
def test_costs_never_fall_with_rows_or_heads(surface: CostSurface, rows: int, more: int) -> None:
    slack = 1e-9  # sums of other terms round differently
    for heads in range(1, len(surface.heads) + 1):
        assert surface.seconds(rows, heads) <= surface.seconds(rows + more, heads) + slack
        assert surface.seconds(rows, heads) <= surface.seconds(rows, len(surface.heads)) + slack


@given(surfaces())
def test_json_keeps_everything(surface: CostSurface) -> None:
    assert CostSurface.model_validate_json(surface.model_dump_json()) == surface


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"batch_sizes": (4, 1)}, "ascending"),
        ({"batch_sizes": ()}, "at least 1 item"),
        ({"trunk": (1.0,)}, "2 batch sizes need as many costs"),
        ({"heads": ((1.0, 2.0), (1.0,))}, "2 batch sizes need as many costs"),
        ({"heads": ()}, "at least 1 item"),
        ({"trunk": (1.0, float("nan"))}, "finite"),
        ({"trunk": (1.0, -1.0)}, "greater than or equal to 0"),
        ({"at_once": ((1.0, 2.0),)}, "one entry for each of 2 heads"),
        ({"at_once": ((1.0, 2.0), (2.0, 1.0))}, "must not fall"),
        ({"colour": "red"}, "not permitted"),
    ],
)
def test_impossible_surfaces(change: dict[str, object], problem: str) -> None:
    fields = {"batch_sizes": (1, 4), "trunk": (1.0, 2.0), "heads": ((1.0, 2.0), (1.0, 2.0))}
    CostSurface.model_validate(fields)
    with pytest.raises(ValidationError, match=problem):
        CostSurface.model_validate(fields | change)


def test_impossible_questions() -> None:
    surface = CostSurface(batch_sizes=(1,), trunk=(1.0,), heads=((1.0,),))
    for heads in (0, 2):
        with pytest.raises(ValueError, match="heads must be from 1 to 1"):
            surface.seconds(1, heads)
    with pytest.raises(ValueError, match="rows must not be negative"):
        surface.seconds(-1, 1)


def test_every_stage_is_measured(engine: Engine) -> None:
    surface = measure_costs(engine, budget_seconds=0)
    heads = len(engine.artifact.manifest.heads)
    assert surface.batch_sizes == engine.sizes
    assert surface.tokens == max(engine.lengths, default=0)
    assert min(surface.trunk) > 0
    assert len(surface.heads) == heads
    assert min(map(min, surface.heads)) > 0
    assert (surface.at_once is None) != engine.one_program
    assert surface.seconds(rows=21, heads=heads) > 0


def test_rounds_are_interleaved_and_never_too_few(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(image_artifact, "onnxruntime", EngineOptions(cores=CORES, batch_sizes=(1, 4)))
    called: list[tuple[int, int]] = []
    run_head, run_trunk = engine.head, engine.trunk

    def head(index: int, features: Features) -> NDArray[np.float32]:
        called.append((index, features.rows))
        return run_head(index, features)

    def trunk(inputs: Tensors) -> Features:
        called.append((-1, len(next(iter(inputs.values())))))
        return run_trunk(inputs)

    monkeypatch.setattr(engine, "head", head)
    monkeypatch.setattr(engine, "trunk", trunk)
    measure_costs(engine, budget_seconds=0)
    del called[:2]  # features to measure the heads with
    everything = {(stage, size) for stage in range(-1, len(image_artifact.manifest.heads)) for size in (1, 4)}
    rounds = [called[start : start + len(everything)] for start in range(0, len(called), len(everything))]
    assert len(rounds) == LEAST_ROUNDS
    assert all(set(one) == everything for one in rounds)
    assert rounds[0] != rounds[1], "the order is not a fresh one"


def test_each_length_has_costs_of_its_own(text_artifact: Artifact) -> None:
    engine = load_engine(text_artifact, "onnxruntime", EngineOptions(cores=CORES, batch_sizes=(1,)))
    assert len(engine.lengths) > 1
    assert measure_costs(engine, budget_seconds=0, tokens=engine.lengths[0]).tokens == engine.lengths[0]


def test_samples_are_the_reference_inputs_repeated(artifact: Artifact) -> None:
    engine = load_engine(artifact, "onnxruntime", EngineOptions(cores=CORES, batch_sizes=(1,)))
    reference = artifact.reference()
    for tokens in engine.lengths or (0,):
        for name, tensor in sample_inputs(engine, 40, tokens).items():
            original = reference[f"input.{name}"]
            assert tensor.shape == (40, *((tokens,) if tokens else original.shape[1:]))
            assert tensor.dtype == original.dtype
            shared = tuple(slice(size) for size in np.minimum(tensor.shape, original.shape))
            np.testing.assert_array_equal(tensor[shared], original[shared])
            np.testing.assert_array_equal(tensor[32:], tensor[:8])
