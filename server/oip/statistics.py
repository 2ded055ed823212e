"""Statistics of each model as the Open Inference Protocol reports them: requests of this protocol, since the start.

Times are added up in seconds and reported in nanoseconds. How requests of all protocols share batches is in /metrics.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from server.work import Answer, ModelCard


@dataclass
class _Duration:
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def reply(self) -> dict[str, int]:
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


@dataclass
class _Counters:
    last_inference_ms: int = 0
    rows: int = 0
    success: _Duration = field(default_factory=_Duration)
    fail: _Duration = field(default_factory=_Duration)
    queue: _Duration = field(default_factory=_Duration)
    decode: _Duration = field(default_factory=_Duration)
    compute: _Duration = field(default_factory=_Duration)
    write: _Duration = field(default_factory=_Duration)


class Statistics:
    """Counts requests by model and version. Used on the event loop only."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str], _Counters] = {}

    def answered(self, answer: Answer, write_seconds: float) -> None:
        """Count a request that was answered, and the time that its reply took to write."""
        counters, timing = self._of(answer.card), answer.timing
        counters.last_inference_ms = time.time_ns() // 1_000_000
        counters.rows += len(answer.predictions)
        counters.success.add(timing.total_seconds + write_seconds)
        counters.queue.add(timing.queue_seconds)
        counters.decode.add(timing.decode_seconds)
        counters.compute.add(timing.compute_seconds)
        counters.write.add(write_seconds)

    def failed(self, card: ModelCard, seconds: float) -> None:
        """Count a request that got an error instead of an answer."""
        self._of(card).fail.add(seconds)

    def reply(self, cards: tuple[ModelCard, ...]) -> dict[str, Any]:
        """Build the reply for some models."""
        return {"model_stats": [self._model_reply(card) for card in cards]}

    def _of(self, card: ModelCard) -> _Counters:
        return self._counters.setdefault((card.manifest.name, card.manifest.version), _Counters())

    def _model_reply(self, card: ModelCard) -> dict[str, Any]:
        counters = self._of(card)
        nothing = _Duration()
        return {
            "name": card.manifest.name,
            "version": card.manifest.version,
            "last_inference": counters.last_inference_ms,
            "inference_count": counters.rows,
            "execution_count": counters.success.count,
            "inference_stats": {
                "success": counters.success.reply(),
                "fail": counters.fail.reply(),
                "queue": counters.queue.reply(),
                "compute_input": counters.decode.reply(),
                "compute_infer": counters.compute.reply(),
                "compute_output": counters.write.reply(),
                "cache_hit": nothing.reply(),
                "cache_miss": nothing.reply(),
            },
            "batch_stats": [],
        }
