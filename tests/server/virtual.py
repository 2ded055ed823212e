"""An event loop whose time is made up: sleeping costs nothing, and every run with the same seed is the same run."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Skipping(selectors.DefaultSelector):
    """Instead of waiting for events, of which there are none, moves the clock of its loop."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return at once; the time that would have been waited has passed."""
        assert timeout is not None, "the loop would wait for ever: somebody waits for what nobody will do"
        self.loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 seconds and jumps from timer to timer."""

    def __init__(self) -> None:
        selector = _Skipping()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Made-up seconds."""
        return self.now


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
