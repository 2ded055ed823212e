"""The ASGI layer around the application: request ids, keys, limits on the body, errors as replies, security headers,
metrics and log of requests, and clients that leave: what is being done for them is cancelled.

Pure ASGI, so that the application sees disconnects and nothing is buffered on the way.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTimeout, EngineFailure, Overloaded, ServerError, TooBusy, TooLarge
from server.keys import Keys
from server.logs import answer_fields
from server.metrics import METHODS, Observer
from server.settings import Settings

logger = logging.getLogger("neurotrails")
request_logger = logging.getLogger("neurotrails.request")

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN_INFERENCE_PATH = re.compile(r"/v2(/|$)")
CLIENT_CLOSED = 499
"""Status in the metrics for a client that left before its reply."""
GRACE_SECONDS = 5.0
"""Time that a client has before the rate at which it sends its body is judged."""
CROWDED = "crowded"
"""Entry in a scope's state: the request came on a connection beyond the limit."""
PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = PROBES | {"/", "/page/page.css", "/page/page.js", "/page/examples.json", "/docs", "/openapi.json"}
"""Paths that need no key: the probes, and what is the same on every server of this version."""
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
"""Headers of every reply, where it has no such header of its own. No reply lets another origin read it: CORS is off."""


class RequestEnvelope:
    """Wraps each request: gives it an id, asks for its key, bounds its body, turns errors into replies, reports it."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        observer: Observer,
        keys: Keys,
        open_paths: frozenset[str] = OPEN_PATHS,
    ) -> None:
        self._app = app
        self._settings = settings
        self._observer = observer
        self._held = _Held(settings.max_bodies_bytes)
        self._keys = keys
        self._open_paths = open_paths | {"/metrics"} if settings.metrics_without_key else open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection; other than HTTP passes unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        self._observer.request_started()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if SANE_ID.fullmatch(given) else new_id()
        scope.setdefault("state", {}).update(id=request_id, arrived=time.monotonic())
        status, code = CLIENT_CLOSED, ""
        request = asyncio.current_task()
        assert request is not None
        left = False

        def client_left() -> None:
            nonlocal left
            if status == CLIENT_CLOSED:  # no reply has begun: whatever is being done for this client is in vain
                left = True
                request.cancel()

        body = _Body(receive, self._settings, headers.get("content-length", ""), self._held, client_left)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                reply_headers = MutableHeaders(scope=message)
                reply_headers["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    reply_headers.setdefault(name, value)
            await send(message)

        try:
            try:
                self._require_entry(scope, headers)
                await self._app(scope, body.receive, send_with_id)
            finally:
                body.close()  # from here on nothing is cancelled
        except ServerError as error:
            code = error.code
            await self._refuse(error, request_id, scope["path"])(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # nobody is left to reply to
        except asyncio.CancelledError:
            if not left:
                raise
            request.uncancel()
        except Exception:
            code = "internal_error"
            logger.exception("Request %s failed unexpectedly.", request_id)
            if status == CLIENT_CLOSED:  # no reply has begun
                failure = EngineFailure("internal_error", "The server failed on this request; its log has more.")
                await self._refuse(failure, request_id, scope["path"])(scope, receive, send_with_id)
            else:
                raise
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in METHODS else "other"
            seconds = time.perf_counter() - started
            self._observer.request_finished(route, method, status, seconds)
            if self._settings.log_requests and request_logger.isEnabledFor(logging.INFO):
                fields = {"id": request_id, "method": method, "route": route, "status": status}
                fields |= {"code": code} if code else {}
                answer = scope["state"].get("answer")
                phases = answer_fields(answer) if answer is not None else {}
                request_logger.info("request", extra={"fields": {**fields, "seconds": round(seconds, 6), **phases}})

    def _require_entry(self, scope: Scope, headers: Headers) -> None:
        """Raise TooBusy on a connection beyond the limit, Unauthorized without a key, but not for probes."""
        if CROWDED in scope["state"] and scope["path"] not in PROBES:
            raise TooBusy(
                "too_many_connections",
                f"The server has {self._settings.max_connections} connections, the most it takes; ask again later.",
                {"retry-after": "1", "connection": "close"},
            )
        if scope["path"] not in self._open_paths:
            self._keys.require(headers)

    def _refuse(self, error: ServerError, request_id: str, path: str) -> JSONResponse:
        self._observer.request_refused(error.code)
        reply: dict[str, str | int] = {"error": str(error)}
        if not OPEN_INFERENCE_PATH.match(path):  # that protocol's error is a sentence and nothing else
            reply |= {"code": error.code, "id": request_id, **error.details}
        return JSONResponse(reply, status_code=error.status, headers=error.headers)


class _Held:
    """Bytes of all bodies that are held at the moment: in total they are bounded."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count more bytes. Raises Overloaded where there is no room for them, and counts them all the same."""
        self._bytes += count
        if self._bytes > self._most:
            raise Overloaded(
                "overloaded",
                f"The bodies of all requests exceed {self._most} bytes. Ask again in a second.",
                {"retry-after": "1", "connection": "close"},
                {"retry_after_ms": 1000},
            )

    def remove(self, count: int) -> None:
        """Count fewer bytes."""
        self._bytes -= count


class _Body:
    """The body of a request, bounded in size, time and slowness; afterwards it watches whether the client leaves."""

    def __init__(
        self, receive: Receive, settings: Settings, length: str, held: _Held, client_left: Callable[[], None]
    ) -> None:
        self._receive = receive
        self._settings = settings
        self._length = length
        self._held = held
        self._client_left = client_left
        self._started = time.monotonic()
        self._size = 0
        self._watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Return the next message; after the body, `http.disconnect` once the client is gone."""
        if self._watcher is not None:
            await asyncio.wait([self._watcher])
            return {"type": "http.disconnect"}
        settings, length = self._settings, self._length
        if length.isdecimal() and (len(length) > 18 or int(length) > settings.max_body_bytes):
            raise self._too_large()  # before anything is read
        slowest = GRACE_SECONDS + self._size / settings.min_body_rate
        allowed = min(settings.body_timeout_seconds, slowest)
        try:
            async with asyncio.timeout(self._started + allowed - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTimeout(
                "body_timeout",
                f"Of the body, {self._size} bytes arrived within {allowed:.3g} seconds; it must be complete within "
                f"{settings.body_timeout_seconds:g} seconds and come with {settings.min_body_rate} bytes per second.",
                {"connection": "close"},
            ) from error
        if message["type"] == "http.request":
            arrived = len(message.get("body", b""))
            self._size += arrived
            self._held.add(arrived)
            if self._size > settings.max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                self._watcher = asyncio.create_task(self._watch())
        return message

    def close(self) -> None:
        """Stop watching and holding."""
        self._held.remove(self._size)
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_left()

    def _too_large(self) -> TooLarge:
        limit = self._settings.max_body_bytes
        return TooLarge("body_too_large", f"The body exceeds the limit of {limit} bytes.", {"connection": "close"})


def new_id() -> str:
    """Return a ULID: 48 bits of milliseconds since 1970 and 80 random bits, 26 characters that sort by time."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
