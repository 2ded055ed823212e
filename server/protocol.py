"""HTTP/1.1 on a socket, within bounds: connections, the time for a request's headers, and for taking a reply.

What uvicorn leaves unbounded: a client that connects and sends nothing or a header now and then, or that never reads
its reply, would keep a connection for ever; and what is no HTTP is refused in the shape of our errors.
"""

import asyncio
import json
import logging
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from server.middleware import CROWDED, SECURITY_HEADERS, new_id
from server.settings import Settings

logger = logging.getLogger("neurotrails")

RESERVED_CONNECTIONS = 32
"""Connections beyond the limit on which probes are answered, and everything else is refused in order."""


class BoundedProtocol(H11Protocol):
    """One connection. `of` gives the class the settings."""

    settings: Settings

    @classmethod
    def of(cls, settings: Settings) -> type["BoundedProtocol"]:
        """Return this class with settings, as uvicorn makes the instances."""
        return type(cls.__name__, (cls,), {"settings": settings})

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._headers_timer: asyncio.TimerHandle | None = None
        self._reply_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it if there are far too many."""
        super().connection_made(transport)
        beyond = len(self.connections) - self.settings.max_connections
        if beyond > RESERVED_CONNECTIONS:
            self._refuse(503, "too_many_connections", "The server has too many connections; ask again later.")
            return
        if beyond > 0:
            self.app_state = {**self.app_state, CROWDED: True}  # the middleware refuses all but probes
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Read on; the time for headers runs while a request has begun and its headers are incomplete."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._expect_headers()
        elif self.conn.their_state is not h11.IDLE:
            self._stop_expecting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_expecting()
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP/1.1, in the shape of our errors. `msg` is uvicorn's."""
        self._refuse(400, "bad_http", msg)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that has been idle; one whose client does not take the reply is cut off a little later."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.settings.body_timeout_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """Hold the reply until the client has taken more of it; cut the connection off if it takes too long."""
        super().pause_writing()
        self._reply_timer = self.loop.call_later(self.settings.body_timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with the reply."""
        self._stop_waiting()
        super().resume_writing()

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore, as HTTP allows, that a client would like another protocol: it gets its reply."""

    def _expect_headers(self) -> None:
        if self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.settings.header_timeout_seconds, self._headers_are_late)

    def _stop_expecting(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _stop_waiting(self) -> None:
        if self._reply_timer is not None:
            self._reply_timer.cancel()
            self._reply_timer = None

    def _headers_are_late(self) -> None:
        self._headers_timer = None
        if self.transport.is_closing():
            return
        if not self.conn.trailing_data[0]:  # nothing was asked, so nothing is answered
            self.transport.close()
            return
        seconds = self.settings.header_timeout_seconds
        self._refuse(408, "header_timeout", f"The headers of the request did not arrive within {seconds:g} seconds.")

    def _refuse(self, status: int, code: str, sentence: str) -> None:
        """Answer outside of any request, and close."""
        self._stop_expecting()
        identity = new_id()
        body = json.dumps({"error": sentence, "code": code, "id": identity}).encode()
        headers = {
            **SECURITY_HEADERS,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            "x-request-id": identity,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 {status} Refused\r\n{head}\r\n".encode() + body)
        self.transport.close()
