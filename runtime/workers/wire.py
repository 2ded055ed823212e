"""What parent and worker say to each other: JSON behind its length, over a socket. Tensors go through segments."""

import socket
import struct
import time
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from runtime.engines.base import EngineInfo, EngineOptions
from runtime.engines.constants import Index
from runtime.errors import EngineError
from runtime.workers.segment import Place, Segment

MAX_BYTES = 64 * 2**20
_LENGTH = struct.Struct("!I")


class Message(BaseModel):
    """One message."""

    model_config = ConfigDict(frozen=True, extra="forbid")


M = TypeVar("M", bound=Message)


class LaneDescriptors(Message):
    """Open files of one lane, by number, in the worker."""

    channel: int
    inbox: int
    outbox: int


class Load(Message):
    """What a worker is to load; its standard input."""

    folder: str
    sha256: str
    """Of the artifact that the parent has opened."""
    engine: str
    options: EngineOptions
    lanes: tuple[LaneDescriptors, ...]
    constants: int
    """Open file of the constants that the workers share."""
    index: Index | None
    """What that file holds; None for the first worker, which fills it."""


class Failure(Message):
    """An error of the worker."""

    kind: str
    """Name of a class in `runtime.errors`."""
    message: str


class Ready(Message):
    """The worker has loaded."""

    info: EngineInfo
    one_program: bool
    sizes: tuple[int, ...]
    costs: dict[str, dict[int, float]]
    """Measured seconds of each stage, by file and rows."""
    index: Index


class Loaded(Message):
    """What a worker says when it has loaded, or cannot."""

    outcome: Annotated[Ready | Failure, Field(union_mode="left_to_right")]


class Call(Message):
    """One call of the engine, over one lane, which carries one at a time."""

    do: Literal["trunk", "head", "logits"]
    features: int = 0
    """Number of the features that the trunk makes or a head reads; they stay in the worker."""
    rows: tuple[int, ...] | None = None
    """Rows of the features that a head reads; None: all."""
    index: int = 0
    """Of the head."""
    heads: int = 0
    """How many heads, for `logits`."""
    tensors: tuple[Place, ...] = ()
    released: tuple[int, ...] = ()
    """Features that are no longer needed."""


class Reply(Message):
    """The answer to a call: what it gave, or why it failed."""

    rows: int = 0
    """Of the features, for `trunk`."""
    tensors: tuple[Place, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Lane:
    """One end of a way to make one call at a time: a channel for messages, memory for tensors in each direction."""

    channel: socket.socket
    inbox: Segment
    """Tensors on their way to the worker."""
    outbox: Segment
    """Tensors on their way back."""

    def close(self) -> None:
        """Close this end."""
        self.channel.close()
        self.inbox.close()
        self.outbox.close()


def send(channel: socket.socket, message: Message) -> None:
    """Send a message. Raises OSError."""
    body = message.model_dump_json(exclude_defaults=True).encode()
    if len(body) > MAX_BYTES:
        raise EngineError(f"A message of {len(body)} bytes is too long; the limit is {MAX_BYTES}.")
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive(channel: socket.socket, kind: type[M], deadline: float | None = None) -> M:
    """Wait for a message. Raises EOFError when the other side is gone, TimeoutError at `deadline` (monotonic)."""
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
    if length > MAX_BYTES:
        raise EOFError(f"a message of {length} bytes")
    return kind.model_validate_json(_read(channel, length, deadline))


def _read(channel: socket.socket, length: int, deadline: float | None) -> bytes:
    found = bytearray()
    while len(found) < length:
        if deadline is not None:
            channel.settimeout(max(1e-3, deadline - time.monotonic()))
        part = channel.recv(length - len(found))
        if not part:
            raise EOFError("the other side has closed the channel")
        found += part
    return bytes(found)
