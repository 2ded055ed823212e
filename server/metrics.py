"""What the server reports of itself: the `Observer` interface, and Prometheus behind it. All times are seconds."""

import collections
import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from runtime.predictor import Prediction
from runtime.predictor import Timing as ComputeTiming
from server.work import ModelCard

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0, 16.0)


class Observer(ABC):
    """Is told what happens. Called on the event loop, so nothing here may block."""

    @abstractmethod
    def model_loaded(self, card: ModelCard) -> None:
        """Note that a model is warm and served."""

    @abstractmethod
    def model_retired(self, card: ModelCard) -> None:
        """Note that a model is no longer served, and all its requests are answered."""

    @abstractmethod
    def model_failed(self, name: str) -> None:
        """Note that a model could not be served as desired; what was served before goes on."""

    @abstractmethod
    def problems_changed(self, count: int) -> None:
        """Note how many reasons there are now why what is served is not what is desired."""

    @abstractmethod
    def request_started(self) -> None:
        """Note that the headers of a request have arrived; `request_finished` follows."""

    @abstractmethod
    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note that a request got its reply; `route` is the template of its path, `method` of METHODS or `other`."""

    @abstractmethod
    def request_refused(self, reason: str) -> None:
        """Note that a request got an error reply; `reason` is its code."""

    @abstractmethod
    def decoded(self, model: str, seconds: float) -> None:
        """Note that the inputs of a request were decoded."""

    @abstractmethod
    def queued(self, model: str, seconds: float) -> None:
        """Note that decoded inputs began to be computed after waiting for `seconds`."""

    @abstractmethod
    def computed(self, model: str, predictions: Sequence[Prediction], timing: ComputeTiming) -> None:
        """Note that a batch was predicted."""

    @abstractmethod
    def load_changed(self, model: str, waiting_rows: int, cost_ratio: float) -> None:
        """Note how many rows wait for a worker, and what batches take relative to what was measured at start-up."""

    @abstractmethod
    def workers_replaced(self, model: str, count: int) -> None:
        """Note that so many more worker processes of a model had ended and were replaced."""

    @abstractmethod
    def loop_lagged(self, seconds: float) -> None:
        """Note by how much the event loop was late."""


class PrometheusObserver(Observer):
    """Metrics in a registry of their own, so that two servers in one process do not mix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Gauge(
            "neurotrails_build_info", "Version of the software, always 1.", ["version", "python"], registry=registry
        ).labels(version("neurotrails"), platform.python_version()).set(1)
        self._models = Gauge(
            "neurotrails_model_info",
            "A model that is served, or still has requests to answer; always 1.",
            ["model", "version", "engine", "precision"],
            registry=registry,
        )
        self._served: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._changes = Counter(
            "neurotrails_model_changes_total",
            "Models that were loaded, retired after their last request, or failed to load.",
            ["model", "change"],
            registry=registry,
        )
        self._problems = Gauge(
            "neurotrails_serving_problems",
            "Reasons why what is served is not what is desired; see the log.",
            registry=registry,
        )
        self._requests = Counter(
            "neurotrails_requests_total", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._refusals = Counter(
            "neurotrails_refusals_total", "Requests answered with an error.", ["reason"], registry=registry
        )
        self._in_progress = Gauge(
            "neurotrails_requests_in_progress", "Requests that are not answered yet.", registry=registry
        )
        self._ready = Gauge(
            "neurotrails_ready", "1 when /readyz says yes: all models are warm, and the server is not told to stop.",
            registry=registry,
        )  # fmt: skip
        self._request_seconds = self._seconds("request", "End to end, from the headers to the last byte.", "route")
        self._decode_seconds = self._seconds("decode", "Decoding the inputs of a request.", "model")
        self._queue_seconds = self._seconds("queue", "Decoded inputs waiting for the engine.", "model")
        self._trunk_seconds = self._seconds("trunk", "The trunk, for a batch.", "model")
        self._head_seconds = self._seconds("head", "One head, for a batch.", "model", "head")
        self._network_seconds = self._seconds("network", "Trunk and heads run as one program, for a batch.", "model")
        self._vote_seconds = self._seconds("vote", "The vote, for a batch.", "model")
        self._batch_rows = Histogram(
            "neurotrails_batch_rows",
            "Rows computed together.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self._rows = Counter(
            "neurotrails_rows_total",
            "Rows predicted, by the number of heads that voted and why it was that number.",
            ["model", "heads_used", "stopped_by"],
            registry=registry,
        )
        self._disagreement = Histogram(
            "neurotrails_disagreement",
            "Fraction of the pairs of voting heads that differ in their top label, for rows with two or more.",
            ["model"],
            buckets=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            registry=registry,
        )

        self._waiting = Gauge("neurotrails_waiting_rows", "Rows in line.", ["model"], registry=registry)
        self._cost_ratio = Gauge(
            "neurotrails_cost_ratio", "Time of the last batches by the time measured at start-up.", ["model"],
            registry=registry,
        )  # fmt: skip
        self._replaced = Counter(
            "neurotrails_workers_replaced_total", "Worker processes that crashed or hung and were replaced.", ["model"],
            registry=registry,
        )  # fmt: skip
        self._lag_seconds = self._seconds("event_loop_lag", "How late the event loop was, sampled regularly.")

    def _seconds(self, what: str, documentation: str, *labels: str) -> Histogram:
        return Histogram(f"neurotrails_{what}_seconds", documentation, labels, buckets=SECONDS, registry=self._registry)

    def model_loaded(self, card: ModelCard) -> None:
        """Set the model's info gauge."""
        labels = _labels(card)
        self._served[labels] += 1
        self._models.labels(*labels).set(1)
        self._changes.labels(card.manifest.name, "loaded").inc()
        self._replaced.labels(card.manifest.name)  # shown as 0 from the start

    def model_retired(self, card: ModelCard) -> None:
        """Remove the model's info gauge, unless one with the same labels has taken its place."""
        labels = _labels(card)
        self._served[labels] -= 1
        if not self._served[labels]:
            del self._served[labels]
            self._models.remove(*labels)
        self._changes.labels(card.manifest.name, "retired").inc()

    def model_failed(self, name: str) -> None:
        """Count the failure."""
        self._changes.labels(name, "failed").inc()

    def problems_changed(self, count: int) -> None:
        """Set the gauge."""
        self._problems.set(count)

    def request_started(self) -> None:
        """Count the request as in progress."""
        self._in_progress.inc()

    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count the request and record its end-to-end time."""
        self._in_progress.dec()
        self._requests.labels(route, method, status).inc()
        self._request_seconds.labels(route).observe(seconds)

    def request_refused(self, reason: str) -> None:
        """Count the refusal."""
        self._refusals.labels(reason).inc()

    def decoded(self, model: str, seconds: float) -> None:
        """Record the decode time."""
        self._decode_seconds.labels(model).observe(seconds)

    def queued(self, model: str, seconds: float) -> None:
        """Record the queue time."""
        self._queue_seconds.labels(model).observe(seconds)

    def computed(self, model: str, predictions: Sequence[Prediction], timing: ComputeTiming) -> None:
        """Record rows, heads, disagreement and the time of each stage."""
        self._batch_rows.labels(model).observe(len(predictions))
        if timing.trunk_seconds is not None:
            self._trunk_seconds.labels(model).observe(timing.trunk_seconds)
        if timing.network_seconds is not None:
            self._network_seconds.labels(model).observe(timing.network_seconds)
        for head, seconds in enumerate(timing.head_seconds):
            self._head_seconds.labels(model, head).observe(seconds)
        self._vote_seconds.labels(model).observe(timing.vote_seconds)
        for prediction in predictions:
            self._rows.labels(model, prediction.heads_used, prediction.stopped_by).inc()
            if prediction.disagreement is not None:
                self._disagreement.labels(model).observe(prediction.disagreement)

    def load_changed(self, model: str, waiting_rows: int, cost_ratio: float) -> None:
        """Set the gauges."""
        self._waiting.labels(model).set(waiting_rows)
        self._cost_ratio.labels(model).set(cost_ratio)

    def workers_replaced(self, model: str, count: int) -> None:
        """Count them."""
        self._replaced.labels(model).inc(count)

    def loop_lagged(self, seconds: float) -> None:
        """Record the lag."""
        self._lag_seconds.observe(seconds)

    def render(self, *, ready: bool) -> bytes:
        """All metrics in the text format of Prometheus; `ready` is what /readyz says now."""
        self._ready.set(ready)
        return generate_latest(self._registry)


def _labels(card: ModelCard) -> tuple[str, str, str, str]:
    return card.manifest.name, card.manifest.version, card.engine.name, card.engine.precision
