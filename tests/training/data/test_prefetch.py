"""Work ahead: the same items in the same order, errors at their place, and no thread left behind."""

import threading
from collections.abc import Iterator

import pytest

from training.data.prefetch import work_ahead


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "work-ahead"]


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_items_keep_their_order(depth: int) -> None:
    assert list(work_ahead(iter(range(50)), depth)) == list(range(50))
    assert list(work_ahead(iter(()), depth)) == []
    assert ahead_threads() == []


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for index in range(100):
            made.append(index)
            if index == 3:
                third.set()
            yield index

    ahead = work_ahead(items(), 3)
    assert next(ahead) == 0
    assert third.wait(timeout=30)  # 0 was taken, 1 to 3 are made ahead
    assert len(made) == 4
    ahead.close()  # type: ignore[attr-defined]
    assert ahead_threads() == []
    assert len(made) == 4


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("no third item")

    ahead = work_ahead(items(), 8)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(RuntimeError, match="no third item"):
        next(ahead)
    assert ahead_threads() == []


def test_an_error_of_the_loop_stops_the_thread() -> None:
    def loop() -> None:
        for item in work_ahead(iter(range(1000)), 2):
            if item == 5:
                raise KeyError("of the loop")

    with pytest.raises(KeyError):
        loop()
    assert ahead_threads() == []
