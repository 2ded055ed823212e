"""Work ahead in a background thread: the next batches are decoded while the network computes."""

from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Made(Generic[Item]):
    item: Item


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def work_ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """Yield `items` in their order, up to `depth` of them made ahead of time by one background thread.

    What making an item raises is raised here, after the items before it. Closing the iterator, or an error in the loop
    over it, stops the thread before that returns.
    """
    made: SimpleQueue[_Made[Item] | _Ended] = SimpleQueue()
    room, stopped = Semaphore(depth), Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            while True:
                room.acquire()
                if stopped.is_set():
                    break
                made.put(_Made(next(items)))
        except StopIteration:
            pass
        except BaseException as caught:  # raised by the loop, which waits for it
            error = caught
        made.put(_Ended(error))

    thread = Thread(target=work, name="work-ahead", daemon=True)
    thread.start()
    try:
        while isinstance(entry := made.get(), _Made):
            room.release()
            yield entry.item
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        room.release()
        thread.join()
