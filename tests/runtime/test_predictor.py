"""The predictor against brute force: every head of every row, then the obvious rule."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import EngineError, InputError
from runtime.manifest import EarlyExit, ExitPoint
from runtime.predictor import Limit, Prediction, Predictions, Predictor, Wish
from runtime.preprocess import Batch
from runtime.verify import read_reference
from runtime.vote import Vote
from tests.engines import ENGINE_NAMES
from tests.runtime.conftest import CORES

TEMPERATURES = (6.0, 3.0, 4.5)
"""A different one for each number of heads, so that the wrong one would be seen; high, so that votes are unsure."""


@pytest.fixture(scope="module", params=["probabilities", "logits"])
def vote(request: pytest.FixtureRequest) -> Vote:
    chosen: Vote = request.param
    return chosen


@pytest.fixture(scope="module", params=ENGINE_NAMES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=["finished rows are dropped", "finished rows stay"])
def predictor(
    request: pytest.FixtureRequest, image_artifact: Artifact, engine_name: str, vote: Vote
) -> Iterator[Predictor]:
    manifest = image_artifact.manifest
    calibration = manifest.calibration.model_copy(update={"temperatures": TEMPERATURES})
    artifact = replace(image_artifact, manifest=manifest.model_copy(update={"calibration": calibration, "vote": vote}))
    engine = load_engine(artifact, engine_name, EngineOptions(cores=CORES))
    fewer_rows_pay = request.param == "finished rows are dropped"
    engine._costs = {file: {1: 1.0, 4: 4.0 if fewer_rows_pay else 1.0, 16: 16.0 if fewer_rows_pay else 1.0}
                     for file in engine._costs}  # fmt: skip
    yield Predictor(artifact, engine)
    engine.close()


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def _vote(logits: NDArray[np.float32], vote: Vote) -> NDArray[np.float64]:
    """Calibrated vote for one row, from the logits [heads, classes] of those that vote."""
    if vote == "probabilities":
        pooled = np.mean([_softmax(values) for values in logits], axis=0)
    else:
        pooled = _softmax(logits.mean(axis=0))
    powered = pooled ** (1 / TEMPERATURES[len(logits) - 1])
    result: NDArray[np.float64] = powered / powered.sum()
    return result


def _check(found: Prediction, logits: NDArray[np.float32], wish: Wish, vote: Vote, bound: Limit | None = None) -> None:
    """Compare one prediction with brute force over the logits [heads, classes] of all heads."""
    limit = wish.heads or (len(logits) if bound is None else bound.heads)
    used = limit
    if wish.min_confidence is not None:
        sure = [_vote(logits[:k], vote).max() for k in range(1, limit + 1)]
        used = next((k for k, most in enumerate(sure, 1) if most >= wish.min_confidence), limit)
        early = sure[used - 1] >= wish.min_confidence
    else:
        early = False
    assert found.heads_used == used
    assert found.heads_total == len(logits)
    if used == len(logits):
        assert found.stopped_by == "all"
    else:
        bounded_by = "requested" if wish.heads is not None or bound is None else bound.reason
        assert found.stopped_by == ("early_exit" if early else bounded_by)
    np.testing.assert_allclose(found.probabilities, _vote(logits[:used], vote), atol=1e-4)
    for head in range(used):
        np.testing.assert_allclose(found.head_probabilities[head], _softmax(logits[head]), atol=1e-4)
    tops = logits[:used].argmax(axis=1)
    if used == 1:
        assert found.disagreement is None
    else:
        pairs = [tops[a] != tops[b] for a in range(used) for b in range(a)]
        assert found.disagreement == pytest.approx(np.mean(pairs))


WISHES = st.builds(
    Wish,
    heads=st.none() | st.integers(1, 3),
    min_confidence=st.none() | st.sampled_from([0.0, 1.0]) | st.floats(0.2, 1.0),
)


@given(data=st.data())
def test_mixed_wishes_in_one_batch(predictor: Predictor, vote: Vote, data: st.DataObject) -> None:
    inputs, reference = read_reference(predictor.artifact)
    rows = data.draw(st.lists(st.integers(0, 31), min_size=1, max_size=20))
    wishes = data.draw(st.lists(WISHES, min_size=len(rows), max_size=len(rows)))
    batch = {name: tensor[rows] for name, tensor in inputs.items()}
    logits = np.stack(reference)[:, rows]
    _skip_ties(logits, wishes, vote)
    result = predictor.predict_batch(batch, wishes)
    _check_timing(predictor, result, wishes)
    for row, (prediction, wish) in enumerate(zip(result.predictions, wishes, strict=True)):
        _check(prediction, logits[:, row], wish, vote)


@settings(max_examples=25)
@given(data=st.data())
def test_rows_are_reported_as_they_finish_and_a_limit_breaks_no_promise(
    predictor: Predictor, vote: Vote, data: st.DataObject
) -> None:
    inputs, reference = read_reference(predictor.artifact)
    rows = data.draw(st.lists(st.integers(0, 31), min_size=1, max_size=20))
    wishes = data.draw(st.lists(WISHES, min_size=len(rows), max_size=len(rows)))
    limit = data.draw(st.none() | st.builds(Limit, st.integers(1, 3), st.sampled_from(["load", "deadline"])))
    batch = {name: tensor[rows] for name, tensor in inputs.items()}
    logits = np.stack(reference)[:, rows]
    _skip_ties(logits, wishes, vote)
    early: dict[int, Prediction] = {}

    def finished(done: Sequence[int], predictions: Sequence[Prediction]) -> None:
        assert done
        assert not early.keys() & set(done), "a row was reported twice"
        early.update(zip(done, predictions, strict=True))

    found = predictor.predict_batch(batch, wishes, limit=limit, finished=finished).predictions
    last = max(prediction.heads_used for prediction in found)
    assert early.keys() == {row for row, prediction in enumerate(found) if prediction.heads_used < last}
    for row, (prediction, wish) in enumerate(zip(found, wishes, strict=True)):
        _check(prediction, logits[:, row], wish, vote, limit)
        assert early.get(row, prediction) is prediction


def _check_timing(predictor: Predictor, result: Predictions, wishes: list[Wish]) -> None:
    """Either trunk and heads ran one by one, or as one program, which they do when all rows want the same heads."""
    timing = result.timing
    alike = len({wish.heads or 3 for wish in wishes}) == 1 and all(wish.min_confidence is None for wish in wishes)
    if predictor.engine.one_program and alike:
        assert (timing.trunk_seconds, timing.head_seconds) == (None, ())
        assert timing.network_seconds is not None
    else:
        assert timing.trunk_seconds is not None
        assert timing.network_seconds is None
        assert len(timing.head_seconds) == max(p.heads_used for p in result.predictions)


def _skip_ties(logits: NDArray[np.float32], wishes: list[Wish], vote: Vote) -> None:
    """Move no wish onto a knife's edge: the engine's logits differ from the reference in their last bits."""
    for row, wish in enumerate(wishes):
        if wish.min_confidence is not None and 0 < wish.min_confidence < 1:
            sure = [_vote(logits[:k, row], vote).max() for k in (1, 2, 3)]
            if min(abs(most - wish.min_confidence) for most in sure) < 1e-4:
                wishes[row] = Wish(heads=wish.heads)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_heads_is_exact(predictor: Predictor, vote: Vote, heads: int) -> None:
    inputs, reference = read_reference(predictor.artifact)
    result = predictor.predict_batch(inputs, Wish(heads=heads))
    _check_timing(predictor, result, [Wish(heads=heads)])
    for row, prediction in enumerate(result.predictions):
        assert prediction.heads_used == heads
        _check(prediction, np.stack(reference)[:, row], Wish(heads=heads), vote)


def test_rows_stop_on_their_own(predictor: Predictor, vote: Vote) -> None:
    inputs, reference = read_reference(predictor.artifact)
    logits = np.stack(reference)
    sure = sorted(_vote(logits[:1, row], vote).max() for row in range(32))
    threshold = float(sure[15] + sure[16]) / 2
    used = {p.heads_used for p in predictor.predict_batch(inputs, Wish(min_confidence=threshold)).predictions}
    assert 1 in used, "no row stopped early"
    assert used != {1}, "no row went on"


def test_a_certain_row_needs_one_head(predictor: Predictor) -> None:
    inputs, _ = read_reference(predictor.artifact)
    for prediction in predictor.predict_batch(inputs, Wish(min_confidence=0.0)).predictions:
        assert (prediction.heads_used, prediction.stopped_by) == (1, "early_exit")


EXITS = EarlyExit(
    split="report",
    rows=100,
    points=(
        ExitPoint(min_confidence=0.5, accuracy=0.80, mean_heads=1.2),
        ExitPoint(min_confidence=0.9, accuracy=0.90, mean_heads=2.0),
        ExitPoint(min_confidence=0.95, accuracy=0.89, mean_heads=2.5),
        ExitPoint(min_confidence=1.0, accuracy=0.91, mean_heads=3.0),
    ),
)


@pytest.mark.parametrize(("target", "minimum"), [(0.0, 0.5), (0.8, 0.5), (0.85, 0.9), (0.9, 0.9), (0.91, 1.0)])
def test_a_target_accuracy_is_the_earliest_exit_that_reaches_it(
    predictor: Predictor, target: float, minimum: float
) -> None:
    manifest = predictor.artifact.manifest.model_copy(update={"early_exit": EXITS})
    aimed = Predictor(replace(predictor.artifact, manifest=manifest), predictor.engine)
    inputs, _ = read_reference(predictor.artifact)
    found = aimed.predict_batch(inputs, Wish(target_accuracy=target)).predictions
    same = predictor.predict_batch(inputs, Wish(min_confidence=minimum)).predictions
    assert [prediction.heads_used for prediction in found] == [prediction.heads_used for prediction in same]


def test_a_target_accuracy_out_of_reach_lists_the_table(predictor: Predictor) -> None:
    manifest = predictor.artifact.manifest.model_copy(update={"early_exit": EXITS})
    aimed = Predictor(replace(predictor.artifact, manifest=manifest), predictor.engine)
    for wish, words in [
        (Wish(target_accuracy=0.92), ["0.92", "0.91 (min_confidence 1, 3 heads on average)", "'report'"]),
        (Wish(target_accuracy=float("nan")), ["nan"]),
        (Wish(target_accuracy=0.8, heads=2), ["without heads"]),
        (Wish(target_accuracy=0.8, min_confidence=0.5), ["without min_confidence"]),
    ]:
        with pytest.raises(InputError) as refused:
            aimed.check(wish)
        assert refused.value.code == "bad_target_accuracy"
        for word in words:
            assert word in str(refused.value)


def test_no_rows(predictor: Predictor) -> None:
    assert predictor.predict([]).predictions == []


def test_rows_of_texts_of_many_lengths(text_artifact: Artifact, engine_name: str) -> None:
    engine = load_engine(text_artifact, engine_name, EngineOptions(cores=CORES))
    predictor = Predictor(text_artifact, engine)
    rows = [text_artifact.preprocessor.prepare("the ball game " * count) for count in (1, 2, 5, 20)]
    together = predictor.predict(rows).predictions
    for row, prediction in zip(rows, together, strict=True):
        alone = predictor.predict([row]).predictions[0]
        np.testing.assert_allclose(prediction.probabilities, alone.probabilities, atol=1e-5)
    engine.close()


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish(heads=0), "bad_heads"),
        (Wish(heads=4), "bad_heads"),
        (Wish(heads=-1), "bad_heads"),
        (Wish(min_confidence=-0.1), "bad_min_confidence"),
        (Wish(min_confidence=1.1), "bad_min_confidence"),
        (Wish(min_confidence=float("nan")), "bad_min_confidence"),
    ],
)
def test_impossible_wishes(predictor: Predictor, wish: Wish, code: str) -> None:
    inputs, _ = read_reference(predictor.artifact)
    with pytest.raises(InputError) as refused:
        predictor.predict_batch(inputs, [Wish()] * 31 + [wish])
    assert refused.value.code == code


def test_one_wish_per_row(predictor: Predictor) -> None:
    inputs, _ = read_reference(predictor.artifact)
    with pytest.raises(ValueError, match="32 rows need as many wishes, not 2"):
        predictor.predict_batch(inputs, [Wish(), Wish()])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_input_that_is_not_finite_is_refused(predictor: Predictor, value: float) -> None:
    inputs, _ = read_reference(predictor.artifact)
    image = np.array(inputs["image"])
    image[3, 0, 5, 5] = value
    with pytest.raises(InputError, match="'image' holds NaN or infinite values"):
        predictor.predict_batch({"image": image})


def test_logits_that_are_not_finite_are_no_answer(predictor: Predictor) -> None:
    huge: Batch = {"image": np.full((1, 1, 12, 12), 3e38, dtype=np.float32)}
    with pytest.raises(EngineError, match="Head 0 of tiny-image gave NaN or infinite logits"):
        predictor.predict_batch(huge)


def test_ties_go_to_the_lower_index() -> None:
    prediction = Prediction(
        probabilities=np.array([0.2, 0.4, 0.4]),
        head_probabilities=np.array([[0.2, 0.4, 0.4]]),
        heads_total=1,
        stopped_by="all",
        disagreement=None,
    )
    assert prediction.top(2) == [1, 2]
    assert prediction.top(9) == [1, 2, 0]
