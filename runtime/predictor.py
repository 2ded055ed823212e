"""The predictor: trunk, heads in order, vote. Protocol-neutral; the server, the command line and benchmarks share it.

predictor = Predictor(artifact, load_engine(artifact, "onnxruntime", EngineOptions(cores=2)))
[prediction] = predictor.predict([artifact.preprocessor.prepare(png)], [Wish(min_confidence=0.9)]).predictions
prediction.top(1), prediction.heads_used, prediction.disagreement
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines.base import Engine
from runtime.errors import EngineError, InputError
from runtime.preprocess import Batch, Row
from runtime.vote import disagreement, pool, softmax, temper

StopReason = Literal["all", "requested", "early_exit", "load", "deadline"]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one row asks for: exactly `heads` voting heads (None: all); fewer once the vote passes `min_confidence`."""

    heads: int | None = None
    min_confidence: float | None = None
    target_accuracy: float | None = None
    """Stop as early as the artifact's exit table allows at this accuracy: a `min_confidence` that the table chooses."""


@dataclass(frozen=True)
class Limit:
    """At most so many heads for every row of a batch that was not promised a number of heads, and the reason why."""

    heads: int
    reason: Literal["load", "deadline"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one row. All arrays are float64."""

    probabilities: NDArray[np.float64]
    """Calibrated vote, [classes]."""
    head_probabilities: NDArray[np.float64]
    """Uncalibrated probabilities of each head that voted, [heads_used, classes]."""
    heads_total: int
    stopped_by: StopReason
    disagreement: float | None
    """Mean over pairs of heads of "top-1 differs"; None for one head."""

    @property
    def heads_used(self) -> int:
        """Number of heads that voted."""
        return len(self.head_probabilities)

    def top(self, count: int) -> list[int]:
        """Indices of the `count` most probable classes, best first; ties go to the lower index."""
        return [int(index) for index in np.argsort(-self.probabilities, kind="stable")[:count]]


@dataclass(frozen=True)
class Timing:
    """Seconds spent in one call to `predict`."""

    trunk_seconds: float | None
    """None where trunk and heads ran as one program."""
    head_seconds: tuple[float, ...]
    """For each head that ran by itself, in voting order."""
    vote_seconds: float
    network_seconds: float | None = None
    """Trunk and heads as one program; None where they ran one by one."""


@dataclass(frozen=True)
class Predictions:
    """One prediction per row, in the order of the rows, and where the time went."""

    predictions: list[Prediction]
    timing: Timing


Finished = Callable[[Sequence[int], Sequence[Prediction]], None]
"""Is told the positions and the predictions of rows that are finished while others still need more heads."""


class Predictor:
    """An artifact on an engine. Thread-safe when the engine is, and they all are."""

    def __init__(self, artifact: Artifact, engine: Engine) -> None:
        self.artifact = artifact
        self.engine = engine
        self.heads_total = len(artifact.manifest.heads)

    def check(self, wish: Wish) -> None:
        """Raise InputError when this artifact cannot grant `wish`."""
        if wish.heads is not None and not 1 <= wish.heads <= self.heads_total:
            raise InputError(
                "bad_heads", f"heads must be from 1 to {self.heads_total} for this model, not {wish.heads}."
            )
        if wish.min_confidence is not None and not 0 <= wish.min_confidence <= 1:
            raise InputError("bad_min_confidence", f"min_confidence must be from 0 to 1, not {wish.min_confidence}.")
        if wish.target_accuracy is not None:
            self._check_target(wish, wish.target_accuracy)

    def predict(
        self,
        rows: Sequence[Row],
        wishes: Sequence[Wish] | Wish = Wish(),
        *,
        limit: Limit | None = None,
        finished: Finished | None = None,
    ) -> Predictions:
        """Predict prepared rows (see `runtime.preprocess`); `wishes` holds one wish per row, or one for all.

        `limit` bounds the heads of the rows whose wish names none. `finished` hears in this thread of rows that are
        done while others go on; the result holds them all the same.
        """
        if not rows:
            return Predictions([], Timing(None, (), 0.0))
        return self.predict_batch(self.artifact.preprocessor.collate(rows), wishes, limit=limit, finished=finished)

    def predict_batch(
        self,
        inputs: Batch,
        wishes: Sequence[Wish] | Wish = Wish(),
        *,
        limit: Limit | None = None,
        finished: Finished | None = None,
    ) -> Predictions:
        """Predict a batch of input tensors, batch axis first. Non-finite input is refused."""
        rows = len(next(iter(inputs.values())))
        wishes = [wishes] * rows if isinstance(wishes, Wish) else list(wishes)
        if len(wishes) != rows:
            raise ValueError(f"{rows} rows need as many wishes, not {len(wishes)}")
        for wish in wishes:
            self.check(wish)
        for name, tensor in inputs.items():
            if not np.isfinite(tensor).all():
                raise InputError("not_finite", f"Input {name!r} holds NaN or infinite values.")
        limits = np.array([self._most_heads(wish, limit) for wish in wishes])
        reasons = [self._reason(wish, limit) for wish in wishes]
        thresholds = np.array([self._threshold(wish) for wish in wishes])
        if self.engine.one_program and len(set(limits)) == 1 and np.isinf(thresholds).all():
            return self._predict_at_once(inputs, int(limits[0]), reasons)
        return self._predict_head_by_head(inputs, limits, reasons, thresholds, finished)

    def _most_heads(self, wish: Wish, limit: Limit | None) -> int:
        if wish.heads is not None:
            return wish.heads
        return self.heads_total if limit is None else min(limit.heads, self.heads_total)

    def _reason(self, wish: Wish, limit: Limit | None) -> StopReason:
        """Why a row with this wish stops where `_most_heads` says, unless that is at the last head of all."""
        return "requested" if wish.heads is not None or limit is None else limit.reason

    def _threshold(self, wish: Wish) -> float:
        """Least confidence at which a row stops asking heads; infinite for never."""
        if wish.target_accuracy is not None:
            point = self.artifact.manifest.early_exit.point_for(wish.target_accuracy)
            assert point is not None, "`check` has found one"
            return point.min_confidence
        return np.inf if wish.min_confidence is None else wish.min_confidence

    def _check_target(self, wish: Wish, target: float) -> None:
        for name in ("heads", "min_confidence"):
            if getattr(wish, name) is not None:
                raise InputError(
                    "bad_target_accuracy", f"target_accuracy chooses how early to stop; give it without {name}."
                )
        early_exit = self.artifact.manifest.early_exit
        if not 0 <= target <= 1 or early_exit.point_for(target) is None:
            rows = ", ".join(
                f"{p.accuracy:.4g} (min_confidence {p.min_confidence:g}, {p.mean_heads:.3g} heads on average)"
                for p in early_exit.points
            )
            raise InputError(
                "bad_target_accuracy",
                f"target_accuracy must be reached by the exit table of this model, and {target:g} is not. "
                f"Measured on split {early_exit.split!r}: {rows or 'nothing'}.",
            )

    def _predict_at_once(self, inputs: Batch, heads: int, reasons: Sequence[StopReason]) -> Predictions:
        """Predict with the same number of heads for every row, trunk and heads as one program."""
        started = time.perf_counter()
        logits = np.stack(self.engine.logits(inputs, heads))
        network_seconds = time.perf_counter() - started
        started = time.perf_counter()
        if not np.isfinite(logits).all():
            for index, output in enumerate(logits):
                self._require_finite(index, output)
        predictions = self._answers(logits, reasons)
        return Predictions(predictions, Timing(None, (), time.perf_counter() - started, network_seconds))

    def _predict_head_by_head(
        self,
        inputs: Batch,
        limits: NDArray[np.int_],
        reasons: Sequence[StopReason],
        thresholds: NDArray[np.float64],
        finished: Finished | None,
    ) -> Predictions:
        """Predict with as many heads as each row still wants."""
        rows = len(limits)
        started = time.perf_counter()
        features = self.engine.trunk(inputs)
        trunk_seconds = time.perf_counter() - started

        logits = np.empty((self.heads_total, rows, len(self.artifact.manifest.labels)), dtype=np.float32)
        concluded: dict[int, Prediction] = {}
        pending = np.arange(rows)  # rows that still want a head
        carried = pending  # rows that `features` holds: finished ones stay when dropping them would not pay
        head_seconds: list[float] = []
        vote_seconds = 0.0
        for index, stage in enumerate(self.artifact.manifest.heads):
            started = time.perf_counter()
            if len(pending) < len(carried) and self.engine.cheaper(stage, len(carried), len(pending)):
                features = features.take(np.searchsorted(carried, pending))
                carried = pending
            output = self.engine.head(index, features)[np.searchsorted(carried, pending)]
            head_seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            self._require_finite(index, output)
            logits[index, pending] = output
            early = np.zeros(len(pending), dtype=bool)
            if np.isfinite(thresholds[pending]).any():
                early = self.vote(logits[: index + 1, pending]).max(axis=-1) >= thresholds[pending]
            done = early | (limits[pending] == index + 1)
            stopped = pending[done]
            why: list[StopReason] = [
                "early_exit" if sure else reasons[row] for row, sure in zip(stopped, early[done], strict=True)
            ]
            answers = self._answers(logits[: index + 1, stopped], why) if len(stopped) else []
            concluded.update(zip(stopped.tolist(), answers, strict=True))
            pending = pending[~done]
            vote_seconds += time.perf_counter() - started
            if not len(pending):
                break
            if finished is not None and answers:
                finished(stopped.tolist(), answers)

        predictions = [concluded[row] for row in range(rows)]
        return Predictions(predictions, Timing(trunk_seconds, tuple(head_seconds), vote_seconds))

    def _require_finite(self, head: int, logits: NDArray[np.float32]) -> None:
        if not np.isfinite(logits).all():
            raise EngineError(f"Head {head} of {self.artifact.manifest.name} gave NaN or infinite logits.")

    def vote(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated vote of logits [heads, rows, classes] of the first heads: [rows, classes]."""
        manifest = self.artifact.manifest
        return temper(pool(logits, manifest.vote), manifest.calibration.temperatures[len(logits) - 1])

    def _answers(self, logits: NDArray[np.float32], reasons: Sequence[StopReason]) -> list[Prediction]:
        """Predictions from logits [heads, rows, classes]; `reasons` says why no further heads voted, if there are."""
        complete = len(logits) == self.heads_total
        manifest = self.artifact.manifest
        probabilities = softmax(logits)
        pooled = probabilities.mean(axis=0) if manifest.vote == "probabilities" else pool(logits, manifest.vote)
        votes = temper(pooled, manifest.calibration.temperatures[len(logits) - 1])
        spread = disagreement(logits.argmax(axis=-1))
        return [
            Prediction(
                probabilities=votes[row],
                head_probabilities=probabilities[:, row],
                heads_total=self.heads_total,
                stopped_by="all" if complete else reasons[row],
                disagreement=None if spread is None else float(spread[row]),
            )
            for row in range(logits.shape[1])
        ]
