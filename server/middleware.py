"""The ASGI layer around the application: request ids, limits on the body, errors as replies, request metrics.

Pure ASGI, so that the application sees disconnects and nothing is buffered on the way.
"""

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTimeout, EngineFailure, ServerError, TooLarge
from server.metrics import Observer
from server.settings import Settings

logger = logging.getLogger("neurotrails")

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN_INFERENCE_PATH = re.compile(r"/v2(/|$)")
CLIENT_CLOSED = 499
"""Status in the metrics for a client that left before its reply."""


class RequestEnvelope:
    """Wraps each request: gives it an id, bounds its body, turns errors into replies and reports it."""

    def __init__(self, app: ASGIApp, settings: Settings, observer: Observer) -> None:
        self._app = app
        self._settings = settings
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection; other than HTTP passes unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if SANE_ID.fullmatch(given) else new_id()
        scope.setdefault("state", {})["id"] = request_id
        status = CLIENT_CLOSED

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, self._bounded(receive, headers.get("content-length", "")), send_with_id)
        except ServerError as error:
            await self._refuse(error, request_id, scope["path"])(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # nobody is left to reply to
        except Exception:
            logger.exception("Request %s failed unexpectedly.", request_id)
            if status == CLIENT_CLOSED:  # no reply has begun
                failure = EngineFailure("internal_error", "The server failed on this request; its log has more.")
                await self._refuse(failure, request_id, scope["path"])(scope, receive, send_with_id)
            else:
                raise
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._observer.request_finished(route, scope["method"], status, time.perf_counter() - started)

    def _bounded(self, receive: Receive, length: str) -> Receive:
        """Refuse a body whose declared length is too large before reading it, and bound its real size and time."""
        settings = self._settings
        size, complete, deadline = 0, False, time.monotonic() + settings.body_timeout_seconds

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            if length.isdecimal() and (len(length) > 18 or int(length) > settings.max_body_bytes):
                raise self._too_large()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError as error:
                raise BodyTimeout(
                    "body_timeout",
                    f"The body did not arrive within {settings.body_timeout_seconds:g} seconds.",
                    {"connection": "close"},
                ) from error
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if size > settings.max_body_bytes:
                    raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> TooLarge:
        limit = self._settings.max_body_bytes
        return TooLarge("body_too_large", f"The body exceeds the limit of {limit} bytes.", {"connection": "close"})

    def _refuse(self, error: ServerError, request_id: str, path: str) -> JSONResponse:
        self._observer.request_refused(error.code)
        reply = {"error": str(error)}
        if not OPEN_INFERENCE_PATH.match(path):  # that protocol's error is a sentence and nothing else
            reply |= {"code": error.code, "id": request_id}
        return JSONResponse(reply, status_code=error.status, headers=error.headers)


def new_id() -> str:
    """Return a ULID: 48 bits of milliseconds since 1970 and 80 random bits, 26 characters that sort by time."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
