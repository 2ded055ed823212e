"""The synchronous client.

with Client("http://127.0.0.1:8000", timeout_seconds=5) as client:
    reply = client.predict([Path("shirt.png"), Path("bag.png")], heads=2)
    print([prediction.label for prediction in reply.predictions])
"""

import contextlib
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlencode, urlsplit

from server.client.errors import DeadlineExceeded, InvalidURL, NotReady, Overloaded, UnexpectedReply, Unreachable
from server.client.reply import Model, Reply, read_models, read_reply, refusal
from server.client.request import Body, Input, encode

Result = TypeVar("Result")

DEFAULT_URL = "http://127.0.0.1:8000"
GRACE_SECONDS = 1.0
"""How much longer than a timeout that the server knows the client waits: for the server's own word that it passed."""
JITTER = 1.5
"""A retry waits up to so many times as long as the server said, so that refused clients do not come back together."""


@dataclass(frozen=True)
class _Response:
    status: int
    headers: Message
    body: bytes


class Client:
    """Asks a server. Threads may share one: each call has a connection to itself, and connections are kept for reuse.

    `timeout_seconds` bounds the wait for each reply, retries and the waits before them included. `retries` is how often
    a call that the server refuses because it is overloaded (429) or not ready (503) is made again, each time after the
    wait that the server asks for; a wait that would exceed the timeout is not begun. Nothing else is retried, but a
    request on a kept connection that turns out to be closed is sent again on a new one. Redirects are not followed, and
    proxies of the environment not used. `api_key` is sent as `Authorization: Bearer`.

    Raises InvalidURL; ValueError for a timeout or number of retries that cannot be.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout_seconds: float = 30.0, retries: int = 0
    ) -> None:
        if retries < 0:
            raise ValueError(f"retries must be at least 0, not {retries}.")
        self._timeout_seconds = _checked_timeout(timeout_seconds)
        self._retries = retries
        self._headers = {"user-agent": "neurotrails"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self.url = url
        self._new_connection, self._path = _address(url)
        self._idle: list[HTTPConnection] = []
        """Connections that no call uses; appending and popping are atomic."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept. A later call opens new ones."""
        while (connection := self._take_idle()) is not None:
            connection.close()

    def predict(
        self,
        inputs: Input | Sequence[Input],
        *,
        model: str | None = None,
        heads: int | None = None,
        min_confidence: float | None = None,
        target_accuracy: float | None = None,
        timeout_seconds: float | None = None,
        top_k: int | None = None,
    ) -> Reply:
        """Predict one or several inputs, all images or all texts.

        A `str` is a text, `bytes` are what a file holds, a `Path` is a file; files hold an image or a text in UTF-8.

        Args:
            inputs: One input, or several for one model.
            model: Name of the model. Default: the only one that takes such inputs.
            heads: Let exactly this many heads vote, also under load. Default: all, unless the load sheds some.
            min_confidence: Stop asking heads for an input once its calibrated vote is at least this sure.
            target_accuracy: Stop as early as the model's table of early exits allows at this accuracy.
            timeout_seconds: Like the client's, for this call, and told to the server, which then computes nothing in
                vain. Default: the client's, and the server's own.
            top_k: How many of the most probable classes to list. Default: 1.

        Raises:
            ServerRefused: The server cannot answer such a request.
            Overloaded: Too much waits at the server.
            NotReady: The server is still loading, or shutting down, or has too many connections.
            DeadlineExceeded: There was no answer in time.
            Unreachable: There is no connection, or it broke.
            UnexpectedReply: What replied is not this kind of server.
            OSError: A file cannot be read.
            TypeError: An input is none of these.
        """
        body = encode(inputs)
        wishes = {
            "model": model,
            "heads": heads,
            "min_confidence": min_confidence,
            "target_accuracy": target_accuracy,
            "top_k": top_k,
        }
        given = {name: value for name, value in wishes.items() if value is not None}

        def ask(seconds_left: float) -> Reply:
            if timeout_seconds is None:
                wait, query = seconds_left, given
            else:
                wait, query = seconds_left + GRACE_SECONDS, given | {"timeout_ms": 1000 * seconds_left}
            return read_reply(self._exchange("POST", f"/predict?{urlencode(query)}", body, wait))

        whole = self._timeout_seconds if timeout_seconds is None else _checked_timeout(timeout_seconds)
        return self._retrying(ask, whole)

    def models(self) -> tuple[Model, ...]:
        """Describe the served models. Raises what `predict` raises."""
        return self._retrying(lambda left: read_models(self._exchange("GET", "/models", None, left)))

    def ready(self) -> bool:
        """Whether all models are warm. Raises Unreachable, DeadlineExceeded or UnexpectedReply."""
        try:
            self._exchange("GET", "/readyz", None, self._timeout_seconds)
        except NotReady:
            return False
        return True

    def _retrying(self, ask: Callable[[float], Result], seconds: float | None = None) -> Result:
        """Call `ask` with the seconds that are left, again after a temporary refusal if that was asked for."""
        until = time.monotonic() + (self._timeout_seconds if seconds is None else seconds)
        for retries_left in range(self._retries, -1, -1):
            try:
                return ask(_left(until))
            except (Overloaded, NotReady) as error:
                wait = error.retry_after_seconds * random.uniform(1.0, JITTER)
                if not retries_left or time.monotonic() + wait >= until:
                    raise
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _exchange(self, method: str, target: str, body: Body | None, seconds: float) -> bytes:
        """Send a request and return the body of its reply. Raises ClientError."""
        until = time.monotonic() + seconds
        kept = self._take_idle()
        response = None
        if kept is not None:
            with contextlib.suppress(ConnectionError):  # the server closed it since; predicting again does no harm
                response = self._send(kept, method, target, body, until)
        try:
            if response is None:
                response = self._send(self._connect(until), method, target, body, until)
        except OSError as error:
            raise Unreachable(f"The connection to {self.url} broke: {error}.") from error
        if response.status != 200:
            raise refusal(response.status, response.headers, response.body)
        return response.body

    def _connect(self, until: float) -> HTTPConnection:
        connection = self._new_connection()
        connection.timeout = _left(until)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise Unreachable(f"There is no connection to {self.url}: {error}.") from error
        return connection

    def _send(self, connection: HTTPConnection, method: str, target: str, body: Body | None, until: float) -> _Response:
        """Send on an open connection, which is then kept or closed. Raises ConnectionError if it breaks."""
        headers = self._headers if body is None else {**self._headers, "content-type": body.content_type}
        keep = False
        try:
            connection.sock.settimeout(_left(until))
            # A server that refuses a request for its size answers, and closes, before it has read everything.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._path + target, None if body is None else body.data, headers)
            connection.sock.settimeout(_left(until))
            reply = connection.getresponse()
            response = _Response(reply.status, reply.headers, reply.read())
            keep = not reply.will_close
        except TimeoutError as error:
            raise DeadlineExceeded(f"There was no reply from {self.url} in time.") from error
        except IncompleteRead as error:
            raise ConnectionResetError(f"it ended {error.expected} bytes before the reply did") from error
        except HTTPException as error:
            if isinstance(error, ConnectionError):  # closed without a byte
                raise
            raise UnexpectedReply(f"What replies at {self.url} does not speak HTTP: {error!r}.") from error
        finally:
            if keep:
                self._idle.append(connection)
            else:
                connection.close()
        return response

    def _take_idle(self) -> HTTPConnection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None


def _address(url: str) -> tuple[Callable[[], HTTPConnection], str]:
    """Return what makes connections to a server, and the path in front of its paths. Raises InvalidURL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidURL(f"{url!r} is not the address of a server: {error}.") from error
    odd = parts.query or parts.fragment or "@" in parts.netloc or not re.fullmatch("[!-~]+", url)
    if parts.scheme not in ("http", "https") or not host or odd:
        raise InvalidURL(f"{url!r} is not the address of a server; one is http://127.0.0.1:8000, for example.")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return lambda: kind(host, port), parts.path.rstrip("/")


def _checked_timeout(seconds: float) -> float:
    if not 0 < seconds < float("inf"):
        raise ValueError(f"timeout_seconds must be more than 0, not {seconds}.")
    return seconds


def _left(until: float) -> float:
    """Seconds until then. Raises DeadlineExceeded for none."""
    left = until - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("The time for the call was over before it could be made.")
    return left
