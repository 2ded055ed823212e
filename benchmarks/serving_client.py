"""A small HTTP/1.1 client for load: asyncio, one request at a time on each kept connection, requests as ready bytes.

    pool = Pool(port)
    reply = await pool.ask(request_bytes("POST", "/predict", png, {"content-type": "image/png"}))
    pool.close()

Ready clients spend more time on a request than this server does; here the load generator must not be the bottleneck.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

IDLE_SECONDS = 2.0
"""A connection that was idle for longer is not used again: the server may be closing it."""
GIVE_UP_SECONDS = 120.0
"""A reply that has not come by then is lost: longer than any timeout of the server."""

NO_REPLY = 0
"""Status of a request that got none."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    """NO_REPLY where the connection ended first."""
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes


def request_bytes(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Write one request."""
    fields = {"host": "127.0.0.1", "content-length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection. Every byte that comes belongs to the reply that is waited for, or is counted as stray."""

    def __init__(self) -> None:
        self.closed = False
        self.stray_bytes = 0
        """Bytes that came when no reply was due: a reply too many, or one that is too long."""
        self.idle_since = time.perf_counter()
        self._received = bytearray()
        self._head: tuple[int, dict[str, str], int, int] | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Send a part of a request, for clients that send slowly or leave; nothing where the connection has ended."""
        if self._transport is not None and not self.closed:
            self._transport.write(data)

    def expect(self) -> "asyncio.Future[Reply]":
        """Expect a reply, from before its request is written: a refusal may come before the whole body was sent."""
        assert self._waiting is None, "one request at a time"
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        if self.closed:
            self._end(Reply(NO_REPLY, {}, b""))
        return waiting

    async def wait(self, expected: "asyncio.Future[Reply]") -> Reply:
        """Return the reply that is expected; one without status where none comes for too long."""
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                return await expected
        except TimeoutError:
            self.close()
            return Reply(NO_REPLY, {}, b"")

    async def ask(self, request: bytes) -> Reply:
        """Send a whole request and return its reply."""
        expected = self.expect()
        self.write(request)
        return await self.wait(expected)

    def close(self) -> None:
        """Close at once, whatever is under way."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._waiting is None:
            self.stray_bytes += len(data)
            return
        self._received += data
        if self._head is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = _read_head(bytes(self._received[:end]), end + 4)
        status, headers, start, length = self._head
        if len(self._received) < start + length:
            return
        body = bytes(self._received[start : start + length])
        self.stray_bytes += len(self._received) - start - length
        if headers.get("connection", "").lower() == "close":
            self.closed = True
        self._end(Reply(status, headers, body))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Called by asyncio."""
        self.closed = True
        self._end(Reply(NO_REPLY, {}, b""))

    def _end(self, reply: Reply) -> None:
        self._received.clear()
        self._head = None
        self.idle_since = time.perf_counter()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)


def _read_head(head: bytes, start: int) -> tuple[int, dict[str, str], int, int]:
    """Status, headers, where the body begins, and its length. The server always says the length."""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, start, int(headers["content-length"])


class Pool:
    """As many connections as there are requests at a time; each is used again when its reply has come."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self.stray_bytes = 0
        """Of connections that were closed."""

    async def take(self) -> Connection:
        """An idle connection, else a new one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and time.perf_counter() - connection.idle_since < IDLE_SECONDS:
                return connection
            self._drop(connection)
        return await Connection.open(self._port)

    def give(self, connection: Connection) -> None:
        """Hand a connection back whose reply has come."""
        if connection.closed:
            self._drop(connection)
        else:
            self._idle.append(connection)

    async def ask(self, request: bytes) -> Reply:
        """Send a request on any connection and return its reply."""
        connection = await self.take()
        reply = await connection.ask(request)
        self.give(connection)
        return reply

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._drop(self._idle.pop())

    def _drop(self, connection: Connection) -> None:
        self.stray_bytes += connection.stray_bytes
        connection.close()
