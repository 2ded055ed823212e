"""Holds, breaks and watches the real engines of a service, so that tests can say what waits when."""

import threading
from collections.abc import Callable

from runtime.artifact import Artifact
from runtime.costs import CostSurface
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions, Features, Tensors


class Gate:
    """Every call of an engine's trunk passes `open`, and every head after the first passes `heads_open`."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.heads_open = threading.Event()
        self.entered = threading.Semaphore(0)
        """Released by each call of a trunk."""
        self.failure: Exception | None = None
        """What each trunk raises."""
        self.refuses: Callable[[Tensors], bool] = lambda _: False
        """Inputs that break the trunk."""
        self.only: str | None = None
        """The model that is held; None: every model."""
        self.release()

    def release(self) -> None:
        """Hold nothing any more."""
        self.open.set()
        self.heads_open.set()

    def forget(self) -> None:
        """Forget the calls so far, such as those of the warm-up."""
        while self.entered.acquire(blocking=False):
            pass

    def load(self, artifact: Artifact, name: str, options: EngineOptions) -> Engine:
        """Stand in for `server.models.load_engine`."""
        engine = load_engine(artifact, name, options)
        trunk, head = engine.trunk, engine.head

        def gated_trunk(inputs: Tensors) -> Features:
            self.entered.release()
            if self.only in (None, artifact.manifest.name):
                self.open.wait()
            if self.failure is not None:
                raise self.failure
            if self.refuses(inputs):
                raise RuntimeError("the engine does not like these inputs")
            return trunk(inputs)

        def gated_head(index: int, features: Features) -> object:
            if index > 0:
                self.heads_open.wait()
            return head(index, features)

        engine.trunk = gated_trunk  # type: ignore[method-assign]
        engine.head = gated_head  # type: ignore[method-assign, assignment]
        return engine


def flat_costs(seconds: float) -> Callable[..., CostSurface]:
    """Stand in for `server.models.measure_costs`: each stage takes `seconds`, of however many rows."""

    def measure(engine: Engine, *, budget_seconds: float, tokens: int) -> CostSurface:  # noqa: ARG001
        sizes = engine.sizes
        stage = (seconds,) * len(sizes)
        heads = (stage,) * len(engine.artifact.manifest.heads)
        return CostSurface(tokens=tokens, batch_sizes=sizes, trunk=stage, heads=heads)

    return measure
