import socket
import threading
import time
from collections.abc import Iterator

import pytest

from runtime.engines.base import EngineOptions
from runtime.errors import EngineError
from runtime.workers.segment import Place
from runtime.workers.wire import MAX_BYTES, Call, Failure, Load, Loaded, Message, receive, send

Channel = tuple[socket.socket, socket.socket]

MESSAGES = [
    Call(do="trunk", features=3, tensors=(Place(name="x", dtype="<f4", shape=(1, 0, 7), offset=64),), released=(1, 2)),
    Call(do="head", features=3, rows=(), index=2),
    Loaded(outcome=Failure(kind="UnsupportedModel", message="Größer als erlaubt: 12 > 3 — “no”\n")),
    Load(
        folder="models/x", sha256="0" * 64, engine="auto", lanes=(), constants=5, index={"key": (0, 9)},
        options=EngineOptions(cores=3, batch_sizes=(1, 9), lengths=None, streams=2),
    ),
]  # fmt: skip


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_arrive_as_they_were_sent(channel: Channel, message: Message) -> None:
    ours, theirs = channel
    for _ in range(2):
        send(ours, message)
    assert [receive(theirs, type(message)), receive(theirs, type(message))] == [message, message]


def test_long_messages_arrive_in_parts(channel: Channel) -> None:
    ours, theirs = channel
    long = Call(do="head", rows=tuple(range(500_000)))
    thread = threading.Thread(target=send, args=(ours, long))
    thread.start()
    assert receive(theirs, Call) == long
    thread.join()


def test_the_end_of_the_other_side_is_noticed(channel: Channel) -> None:
    ours, theirs = channel
    ours.sendall(b"\0\0\0\x09{")
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        receive(theirs, Call)
    with pytest.raises(EOFError):
        receive(theirs, Call)


def test_waiting_ends_at_the_deadline(channel: Channel) -> None:
    ours, theirs = channel
    ours.sendall(b"\0\0\0\x09{")
    with pytest.raises(TimeoutError):
        receive(theirs, Call, time.monotonic() + 0.01)


def test_absurd_lengths_are_refused(channel: Channel) -> None:
    ours, theirs = channel
    ours.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(EOFError, match="4294967295 bytes"):
        receive(theirs, Call)
    with pytest.raises(EngineError, match="too long"):
        send(ours, Loaded(outcome=Failure(kind="EngineError", message="x" * MAX_BYTES)))
